package compare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Field is one place in which two documents differ.
type Field struct {
	Path string `json:"path"` // such as ".items[3].price"; "": the whole document
	Old  string `json:"old"`  // JSON, cut to a bound; "": there is none
	New  string `json:"new"`
}

const (
	valueAtMost = 80 // bytes of a value that are shown
	pathAtMost  = 200
)

// Diff returns where two documents differ, at most so many places, and how many
// there are. JSON is compared as JSON: the order of members, white space and the
// spelling of numbers make no difference. Everything else is compared by its
// bytes.
func Diff(was, is []byte, most int) (fields []Field, n int) {
	if bytes.Equal(was, is) {
		return nil, 0
	}
	a, okA := parse(was)
	b, okB := parse(is)
	d := differ{most: most}
	if okA && okB {
		d.value("", a, b)
		return d.fields, d.n
	}
	at := 0
	for at < min(len(was), len(is)) && was[at] == is[at] {
		at++
	}
	d.add("", fmt.Sprintf("%d bytes, the first difference at %d", len(was), at), fmt.Sprintf("%d bytes", len(is)))
	return d.fields, d.n
}

func parse(data []byte) (v any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return nil, false
	}
	_, err := d.Token()
	return v, err == io.EOF
}

type differ struct {
	most   int
	fields []Field
	n      int
}

func (d *differ) add(path, was, is string) {
	if d.n++; len(d.fields) < d.most {
		d.fields = append(d.fields, Field{cut(path, pathAtMost), was, is})
	}
}

func (d *differ) value(path string, a, b any) {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			break
		}
		names := maps.Clone(x)
		maps.Copy(names, y)
		for _, k := range slices.Sorted(maps.Keys(names)) {
			member(d, path+step(k), x, y, k)
		}
		return
	case []any:
		y, ok := b.([]any)
		if !ok {
			break
		}
		for i := range max(len(x), len(y)) {
			at := path + "[" + strconv.Itoa(i) + "]"
			switch {
			case i >= len(x):
				d.add(at, "", show(y[i]))
			case i >= len(y):
				d.add(at, show(x[i]), "")
			default:
				d.value(at, x[i], y[i])
			}
		}
		return
	case json.Number:
		if y, ok := b.(json.Number); ok && number(string(x)) == number(string(y)) {
			return
		}
	default: // string, bool, nil
		if a == b {
			return
		}
	}
	d.add(path, show(a), show(b))
}

func member(d *differ, path string, x, y map[string]any, k string) {
	a, inX := x[k]
	b, inY := y[k]
	switch {
	case !inX:
		d.add(path, "", show(b))
	case !inY:
		d.add(path, show(a), "")
	default:
		d.value(path, a, b)
	}
}

// step is how a member is named in a path.
func step(k string) string {
	plain := k != "" && strings.IndexFunc(k, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
	if plain {
		return "." + k
	}
	return "[" + strconv.Quote(cut(k, valueAtMost)) + "]"
}

func show(v any) string {
	data, err := json.Marshal(v)
	if err != nil { // it was made of JSON
		return err.Error()
	}
	return cut(string(data), valueAtMost)
}

// cut returns s, or its beginning.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}

// number returns a JSON number as digits and an exponent of ten, so that two
// numbers are equal whose spellings differ: 1e3, 1000 and 1000.0. It takes no
// more than the length of its text, whatever the exponent.
func number(s string) string {
	digits, negative := strings.CutPrefix(s, "-")
	exponent := int64(0)
	if i := strings.IndexAny(digits, "eE"); i >= 0 {
		n, err := strconv.ParseInt(strings.TrimPrefix(digits[i+1:], "+"), 10, 62)
		if err != nil {
			return s // beyond all bounds: by its spelling
		}
		digits, exponent = digits[:i], n
	}
	whole, fraction, _ := strings.Cut(digits, ".")
	exponent -= int64(len(fraction))
	digits = strings.TrimLeft(whole+fraction, "0")
	short := strings.TrimRight(digits, "0")
	exponent += int64(len(digits) - len(short))
	switch {
	case short == "":
		return "0"
	case negative:
		short = "-" + short
	}
	return short + "e" + strconv.FormatInt(exponent, 10)
}
