// Package config reads the one file that tells a program what to work on and how:
// strict YAML, in which a key that is not known is an error with file and line.
// What it says are the plain structs of the other packages; flags of the command
// line go before it.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// A File is a configuration file. Everything may be left out.
type File struct {
	// Database is the file or URL that --db names otherwise.
	Database string `yaml:"database"`
	// Name is the name of this process for operators; default: the host's.
	Name string `yaml:"name"`
	// Pool is the worker pool that the process belongs to.
	Pool string `yaml:"pool"`
	// Memory for events and documents, as "64MiB"; default 64 MiB.
	Memory Bytes `yaml:"memory"`
	// Slots is how many batches run at once; default: the number of CPUs, at least 4.
	Slots int `yaml:"slots"`
	// Lease is the time after which another process takes over from a dead one; default 10s.
	Lease Duration `yaml:"lease"`
	// Metrics is the host:port where /metrics and /healthz are served; default: nowhere.
	Metrics string `yaml:"metrics"`
	// Kafka is the topic, or are the topics, that is the log; default: the database is.
	Kafka *Kafka `yaml:"kafka"`
	// Consumer says which events of a shared log are this consumer's.
	Consumer *Consumer `yaml:"consumer"`
}

// Load reads a file. Environment variables in texts, as ${NAME}, are filled in; one
// that is not set is an error.
func Load(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return Parse(path, data, os.LookupEnv)
}

// Parse is Load of data, which came from a file called name.
func Parse(name string, data []byte, env func(string) (string, bool)) (*File, error) {
	f := &File{}
	d := yaml.NewDecoder(bytes.NewReader(data), yaml.DisallowUnknownField())
	if err := d.Decode(f); err != nil && !errors.Is(err, io.EOF) {
		return nil, located(name, err)
	}
	var rest any
	if err := d.Decode(&rest); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("config: %s: more than one document: keep the first, and delete from the second --- on", name)
	}
	var errs []error
	texts(reflect.ValueOf(f).Elem(), "", func(key string, text reflect.Value) {
		v, err := expand(text.String(), env)
		if err != nil {
			errs = append(errs, at(name, data, key, err))
		}
		text.SetString(v)
	})
	if f.Slots < 0 {
		errs = append(errs, at(name, data, "slots", fmt.Errorf("%d: must be positive", f.Slots)))
	}
	if f.Lease < 0 || f.Lease > 0 && time.Duration(f.Lease) < time.Second {
		errs = append(errs, at(name, data, "lease", fmt.Errorf("%v: at least a second", time.Duration(f.Lease))))
	}
	if f.Kafka != nil {
		for _, err := range f.Kafka.check(f.Consumer) {
			errs = append(errs, at(name, data, "kafka."+err.key, err.err))
		}
	}
	if f.Consumer != nil {
		for _, err := range f.Consumer.check() {
			errs = append(errs, at(name, data, "consumer."+err.key, err.err))
		}
		if f.Kafka == nil {
			errs = append(errs, at(name, data, "consumer", errors.New("only a topic is shared between environments: say which, with the key kafka")))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return f, nil
}

// located gives a decoder's error the name of the file, and line and column.
func located(name string, err error) error {
	if e, ok := errors.AsType[yaml.Error](err); ok && e.GetToken() != nil {
		p := e.GetToken().Position
		return fmt.Errorf("config: %s:%d:%d: %s", name, p.Line, p.Column, e.GetMessage())
	}
	return fmt.Errorf("config: %s: %w", name, err)
}

// at gives an error the name of the file, the line of a key, and its path.
func at(name string, data []byte, key string, err error) error {
	if path, e := yaml.PathString("$." + key); e == nil {
		if node, e := path.ReadNode(bytes.NewReader(data)); e == nil && node.GetToken() != nil {
			return fmt.Errorf("config: %s:%d: %s: %w", name, node.GetToken().Position.Line, key, err)
		}
	}
	return fmt.Errorf("config: %s: %s: %w", name, key, err)
}

// texts calls f with every text of a file, and its key.
func texts(v reflect.Value, key string, f func(key string, text reflect.Value)) {
	switch v.Kind() {
	case reflect.String:
		f(key, v)
	case reflect.Pointer:
		if !v.IsNil() {
			texts(v.Elem(), key, f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			texts(v.Index(i), key, f)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().Field(i).Tag.Get("yaml")
			switch {
			case name == "-": // of the key itself
				name = key
			case key != "":
				name = key + "." + name
			}
			texts(v.Field(i), name, f)
		}
	}
}

var variable = regexp.MustCompile(`\$\{([^}]*)\}`)

func expand(s string, env func(string) (string, bool)) (string, error) {
	var err error
	out := variable.ReplaceAllStringFunc(s, func(m string) string {
		v, ok := env(m[2 : len(m)-1])
		if !ok {
			err = fmt.Errorf("the environment has no %s", m[2:len(m)-1])
		}
		return v
	})
	return out, err
}

// Bytes are a number of bytes, written with a unit: 64MiB, 1GiB, 500kB.
type Bytes int64

// UnmarshalYAML implements [yaml.NodeUnmarshaler].
func (b *Bytes) UnmarshalYAML(n ast.Node) error {
	s := scalar(n)
	for _, u := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}} {
		if n, ok := strings.CutSuffix(s, u.name); ok {
			x, err := strconv.ParseFloat(strings.TrimSpace(n), 64)
			if err != nil || x < 0 || x*float64(u.size) >= 1<<62 {
				break
			}
			*b = Bytes(x * float64(u.size))
			return nil
		}
	}
	return faulty(n, "%q is no size: write it as 64MiB, 1GiB or 500kB", s)
}

// A Duration is written as 10s, 500ms or 1h30m.
type Duration time.Duration

// UnmarshalYAML implements [yaml.NodeUnmarshaler].
func (d *Duration) UnmarshalYAML(n ast.Node) error {
	v, err := time.ParseDuration(scalar(n))
	if err != nil {
		return faulty(n, "%q is no duration: write it as 10s, 500ms or 1h30m", scalar(n))
	}
	*d = Duration(v)
	return nil
}

// scalar is the text of a value; "" of a list or a map.
func scalar(n ast.Node) string {
	if _, ok := n.(ast.ScalarNode); ok && n.GetToken() != nil {
		return strings.TrimSpace(n.GetToken().Value)
	}
	return ""
}

// faulty is the error of a value, which says where that is.
func faulty(n ast.Node, format string, args ...any) error {
	return &yaml.SyntaxError{Message: fmt.Sprintf(format, args...), Token: n.GetToken()}
}
