package postgres

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Arrays that the documents of a commit are sent in. The driver's own way takes
// each element out of its slice by reflection and puts it into an interface, which
// allocates. A nil element is NULL.
type (
	wireTexts []string
	wireInt8s []int64
	wireBytes [][]byte
	wireJSONB [][]byte
)

// A wireArray appends itself in PostgreSQL's binary format.
type wireArray interface {
	appendWire(b []byte, element uint32) []byte
}

func (a wireTexts) appendWire(b []byte, element uint32) []byte {
	size := 0
	for _, s := range a {
		size += 4 + len(s)
	}
	b = appendArrayHeader(slices.Grow(b, headerSize+size), element, len(a), false)
	for _, s := range a {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	return b
}

func (a wireInt8s) appendWire(b []byte, element uint32) []byte {
	b = appendArrayHeader(slices.Grow(b, headerSize+12*len(a)), element, len(a), false)
	for _, n := range a {
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, 8), uint64(n))
	}
	return b
}

func (a wireBytes) appendWire(b []byte, element uint32) []byte {
	return appendElements(b, element, a, nil)
}

func (a wireJSONB) appendWire(b []byte, element uint32) []byte {
	return appendElements(b, element, a, []byte{1}) // the version of the format: text follows
}

// appendElements appends an array whose elements are those of a behind a prefix.
func appendElements(b []byte, element uint32, a [][]byte, prefix []byte) []byte {
	const null = 1<<32 - 1
	size, nulls := 0, false
	for _, v := range a {
		size += 4 + len(prefix) + len(v)
		nulls = nulls || v == nil
	}
	b = appendArrayHeader(slices.Grow(b, headerSize+size), element, len(a), nulls)
	for _, v := range a {
		if v == nil {
			b = binary.BigEndian.AppendUint32(b, null)
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(prefix)+len(v)))
		b = append(append(b, prefix...), v...)
	}
	return b
}

const headerSize = 20

// appendArrayHeader appends what stands before the elements of an array of one
// dimension.
func appendArrayHeader(b []byte, element uint32, n int, nulls bool) []byte {
	flags, dimensions := uint32(0), uint32(1)
	if nulls {
		flags = 1
	}
	if n == 0 {
		dimensions = 0
	}
	b = binary.BigEndian.AppendUint32(b, dimensions)
	b = binary.BigEndian.AppendUint32(b, flags)
	b = binary.BigEndian.AppendUint32(b, element)
	if n > 0 {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		b = binary.BigEndian.AppendUint32(b, 1) // the first index
	}
	return b
}

// An arrayCodec is the driver's codec of an array type, which takes a wireArray
// as well.
type arrayCodec struct{ *pgtype.ArrayCodec }

func (c arrayCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(wireArray); ok && format == pgtype.BinaryFormatCode {
		return wirePlan{c.ElementType.OID}
	}
	return c.ArrayCodec.PlanEncode(m, oid, format, value)
}

type wirePlan struct{ element uint32 }

func (p wirePlan) Encode(value any, b []byte) ([]byte, error) {
	return value.(wireArray).appendWire(b, p.element), nil
}

// teachArrays makes a connection take wireArrays.
func teachArrays(_ context.Context, c *pgx.Conn) error {
	types := c.TypeMap()
	for _, oid := range []uint32{pgtype.TextArrayOID, pgtype.Int8ArrayOID, pgtype.ByteaArrayOID, pgtype.JSONBArrayOID} {
		t, ok := types.TypeForOID(oid)
		if !ok {
			continue
		}
		if codec, ok := t.Codec.(*pgtype.ArrayCodec); ok {
			types.RegisterType(&pgtype.Type{Name: t.Name, OID: t.OID, Codec: arrayCodec{codec}})
		}
	}
	return nil
}
