package retail

import (
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
)

// MarshalJSONTo implements json.MarshalerTo.
func (s *Set) MarshalJSONTo(enc *jsontext.Encoder) error {
	if err := enc.WriteToken(jsontext.BeginArray); err != nil {
		return err
	}
	for _, v := range s.list {
		if err := enc.WriteToken(jsontext.String(v)); err != nil {
			return err
		}
	}
	return enc.WriteToken(jsontext.EndArray)
}

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (s *Set) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	*s = Set{}
	open, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if open.Kind() != '[' {
		return fmt.Errorf("a set is an array of strings, not %v", open.Kind())
	}
	for dec.PeekKind() != ']' {
		t, err := dec.ReadToken()
		if err != nil {
			return err
		}
		if t.Kind() != '"' {
			return fmt.Errorf("a set is an array of strings, this one has a %v", t.Kind())
		}
		s.Add(t.String())
	}
	_, err = dec.ReadToken()
	return err
}
