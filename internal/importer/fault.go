package importer

import (
	"encoding/base64"
	"fmt"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
)

// A Fault is a line that cannot be imported.
type Fault struct {
	File   string
	Line   int64 // from 1
	Reason error
	Text   []byte // the line, without its end
	Cut    bool   // the line was too long: Text is its beginning
}

func (f *Fault) Error() string { return fmt.Sprintf("%s:%d: %v", f.File, f.Line, f.Reason) }
func (f *Fault) Unwrap() error { return f.Reason }

// AppendLine appends f as a line of JSON: file, line, reason and the text, as
// it is or, where it is not UTF-8, in base64.
func (f *Fault) AppendLine(b []byte) ([]byte, error) {
	v := struct {
		File   string `json:"file"`
		Line   int64  `json:"line"`
		Reason string `json:"reason"`
		Text   string `json:"text,omitzero"`
		Base64 string `json:"base64,omitzero"`
		Cut    bool   `json:"cut,omitzero"`
	}{File: f.File, Line: f.Line, Reason: f.Reason.Error(), Cut: f.Cut}
	if utf8.Valid(f.Text) {
		v.Text = string(f.Text)
	} else {
		v.Base64 = base64.StdEncoding.EncodeToString(f.Text)
	}
	line, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(append(b, line...), '\n'), nil
}
