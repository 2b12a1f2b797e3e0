// Package avro reads Avro by the schemas of a registry.
package avro

import (
	"fmt"
	"reflect"
	"sync"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/fairlead-dev/fairlead/kafka/registry"
)

// A Reader says by which schema a type is read; see [Reads].
type Reader struct {
	typ    reflect.Type
	schema string
}

// Reads returns the reader of a T: whatever version of the schema a message was written
// with, it is resolved to this one, by Avro's rules. Fields that the message lacks get
// their default, aliases are followed, numbers are promoted. So one handler reads all
// versions of a compatible schema. A type without a reader is read as it was written:
// its fields that the message lacks stay zero, others are passed over.
func Reads[T any](schema string) Reader { return Reader{reflect.TypeFor[T](), schema} }

type format struct{ readers map[reflect.Type]*avro.Schema }

// New returns the format. Fields of structs have the names of the schema's, or those of
// their tags, as `avro:"name"`.
func New(readers ...Reader) (registry.Format, error) {
	f := format{map[reflect.Type]*avro.Schema{}}
	for _, r := range readers {
		s, err := avro.Parse(r.schema)
		if err != nil {
			return nil, fmt.Errorf("avro: the schema by which %v is read: %w", r.typ, err)
		}
		if f.readers[target(r.typ)] != nil {
			return nil, fmt.Errorf("avro: two schemas by which %v is read", r.typ)
		}
		f.readers[target(r.typ)] = s
	}
	return f, nil
}

// target is what a pointer leads to.
func target(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

func (format) Type() sr.SchemaType { return sr.TypeAvro }

func (f format) Compile(text string, refs []registry.Reference) (registry.Schema, error) {
	var named avro.SchemaCache
	for _, r := range refs {
		if _, err := named.Parse(r.Schema); err != nil {
			return nil, fmt.Errorf("%q, to which it refers: %w", r.Name, err)
		}
	}
	s, err := named.Parse(text)
	if err != nil {
		return nil, err
	}
	w := &writer{schema: s, readers: f.readers}
	if root := s.Root(); root.Type == "record" {
		w.name = root.Name
		if root.Namespace != "" {
			w.name = root.Namespace + "." + root.Name
		}
	}
	return w, nil
}

// A writer is the schema that messages were written with.
type writer struct {
	schema   *avro.Schema
	name     string
	readers  map[reflect.Type]*avro.Schema
	resolved sync.Map // reflect.Type -> resolution
}

type resolution struct {
	schema *avro.Schema
	err    error
}

func (w *writer) Message([]byte) (string, error) { return w.name, nil }

func (w *writer) Decode(data []byte, v any) error {
	s, err := w.as(target(reflect.TypeOf(v)))
	if err != nil {
		return err
	}
	rest, err := s.Decode(data, v, avro.SkipUnknown())
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("avro: %d bytes follow the message", len(rest))
	}
	return err
}

// as returns the schema by which a type is read from what w wrote.
func (w *writer) as(t reflect.Type) (*avro.Schema, error) {
	reader := w.readers[t]
	if reader == nil {
		return w.schema, nil
	}
	r, ok := w.resolved.Load(t)
	if !ok {
		s, err := avro.Resolve(w.schema, reader)
		if err != nil {
			err = fmt.Errorf("avro: it cannot be read as %v: %w", t, err)
		}
		r, _ = w.resolved.LoadOrStore(t, resolution{s, err})
	}
	return r.(resolution).schema, r.(resolution).err
}
