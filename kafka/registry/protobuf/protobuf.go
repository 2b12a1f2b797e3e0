// Package protobuf reads Protobuf by the schemas of a registry. Handlers take the types
// that protoc-gen-go makes, as pointers: projection.Event[*shop.OrderPlaced].
package protobuf

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"strings"

	"github.com/bufbuild/protocompile/parser"
	"github.com/bufbuild/protocompile/reporter"
	"github.com/twmb/franz-go/pkg/sr"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/fairlead-dev/fairlead/kafka/registry"
)

type format struct{}

// New returns the format. A message is read by the Go type, as Protobuf's own rules of
// compatibility have it; the schema says which of its messages a record is, so that no
// record is read as another message than it was written as.
func New() registry.Format { return format{} }

func (format) Type() sr.SchemaType { return sr.TypeProtobuf }

// deepest is how far messages may be declared inside messages.
const deepest = 32

func (format) Compile(text string, _ []registry.Reference) (registry.Schema, error) {
	// Some clients register the descriptor in base64 (as Python's does, with a type that
	// it was compiled into), and not every registry makes source of that.
	if raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err == nil && len(raw) > 0 {
		file := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(raw, file); err != nil {
			return nil, fmt.Errorf("a descriptor in base64: %w", err)
		}
		return schema{file}, nil
	}
	// Names need no imports, so nothing is linked.
	h := reporter.NewHandler(nil)
	tree, err := parser.Parse("schema.proto", strings.NewReader(text), h)
	if err != nil {
		return nil, err
	}
	file, err := parser.ResultFromAST(tree, false, h)
	if err != nil {
		return nil, err
	}
	return schema{file.FileDescriptorProto()}, nil
}

type schema struct {
	file *descriptorpb.FileDescriptorProto
}

// open returns the message that a record is, by the path of indexes in front of it.
func (s schema) open(data []byte) (name string, body []byte, err error) {
	path, body, err := new(sr.ConfluentHeader).DecodeIndex(data, deepest)
	if err != nil {
		return "", nil, fmt.Errorf("protobuf: the index of the message cannot be read: %w", err)
	}
	name = s.file.GetPackage()
	in := s.file.GetMessageType()
	for _, i := range path {
		if i < 0 || i >= len(in) {
			return "", nil, fmt.Errorf("protobuf: the schema has no message with the index %v", path)
		}
		name = strings.TrimPrefix(name+"."+in[i].GetName(), ".")
		in = in[i].GetNestedType()
	}
	return name, body, nil
}

func (s schema) Message(data []byte) (string, error) {
	name, _, err := s.open(data)
	return name, err
}

func (s schema) Decode(data []byte, v any) error {
	name, body, err := s.open(data)
	if err != nil {
		return err
	}
	m, err := message(v)
	if err != nil {
		return err
	}
	if takes := m.ProtoReflect().Descriptor().FullName(); string(takes) != name {
		return fmt.Errorf("protobuf: the record is a %s, and its handler takes %s: select handlers by the event's type", name, takes)
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("protobuf: %s: %w", name, err)
	}
	return nil
}

// message returns the message that v is, or that it is to point to.
func message(v any) (proto.Message, error) {
	if m, ok := v.(proto.Message); ok {
		return m, nil
	}
	if p := reflect.ValueOf(v); p.Kind() == reflect.Pointer && p.Elem().Kind() == reflect.Pointer {
		n := reflect.New(p.Type().Elem().Elem())
		if m, ok := n.Interface().(proto.Message); ok {
			p.Elem().Set(n)
			return m, nil
		}
	}
	return nil, fmt.Errorf("protobuf: a handler takes a pointer to a message that protoc-gen-go made, and not %T", v)
}
