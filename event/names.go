package event

import (
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// Limits of names, in bytes. A log refuses what is longer; an event from a
// foreign log that breaks them is parked.
const (
	MaxTenant = 128
	MaxStream = 1024
	MaxType   = 256
	MaxID     = 2048
	MaxClass  = 128
)

// ErrInvalidName is what every [NameError] wraps.
var ErrInvalidName = errors.New("event: invalid name")

// A NameError says which name of an event is not acceptable, and why. The name
// itself is quoted and cut, so it is safe to print.
type NameError struct {
	Field string // "tenant", "stream", "type", "id" or "class"
	Name  string
	Why   string
}

func (e *NameError) Error() string {
	name := e.Name
	if len(name) > 64 {
		name = name[:64] + "…"
	}
	return fmt.Sprintf("event: %s %+q %s", e.Field, name, e.Why)
}

func (e *NameError) Unwrap() error { return ErrInvalidName }

// CheckTenant returns a [NameError] unless s can be a tenant: 1 to [MaxTenant]
// bytes of printable UTF-8. Quotes, slashes and SQL are acceptable, because a
// tenant is never used as SQL or as a path; control characters, NUL, text
// direction marks and other invisible characters are not, because two tenants
// that look alike to an operator must be the same tenant.
func CheckTenant(s string) error { return check("tenant", s, MaxTenant) }

// CheckStream is [CheckTenant] for stream names, to [MaxStream] bytes.
func CheckStream(s string) error { return check("stream", s, MaxStream) }

// CheckType is [CheckTenant] for event types, to [MaxType] bytes.
func CheckType(s string) error { return check("type", s, MaxType) }

// CheckID is [CheckTenant] for event ids, to [MaxID] bytes.
func CheckID(s string) error { return check("id", s, MaxID) }

// CheckClass is [CheckTenant] for traffic classes, to [MaxClass] bytes; the empty
// class is the default one.
func CheckClass(s string) error {
	if s == "" {
		return nil
	}
	return check("class", s, MaxClass)
}

// Check returns the first [NameError] of e's tenant, stream, type, class and id, if
// any.
func (e *Event) Check() error {
	if err := CheckTenant(e.Tenant); err != nil {
		return err
	}
	if err := CheckStream(e.Stream); err != nil {
		return err
	}
	if err := CheckType(e.Type); err != nil {
		return err
	}
	if err := CheckClass(e.Class); err != nil {
		return err
	}
	if e.ID == "" {
		return nil
	}
	return CheckID(e.ID)
}

// CheckOnce is [Event.Check] for an event as its log has given it. That a shared
// event has no fault is remembered for the other readers.
func (e *Event) CheckOnce() error {
	if e.memo == nil {
		return e.Check()
	}
	if e.memo.valid.Load() {
		return nil
	}
	err := e.Check()
	if err == nil {
		e.memo.valid.Store(true)
	}
	return err
}

// unseen are the characters that count as printable but show nothing, such as
// variation selectors and Hangul fillers; U+2800 is the blank Braille pattern.
var unseen = []*unicode.RangeTable{
	unicode.Other_Default_Ignorable_Code_Point,
	unicode.Variation_Selector,
	{R16: []unicode.Range16{{Lo: 0x2800, Hi: 0x2800, Stride: 1}}},
}

func check(field, s string, limit int) error {
	switch {
	case s == "":
		return &NameError{field, s, "is empty"}
	case len(s) > limit:
		return &NameError{field, s, fmt.Sprintf("has %d bytes, more than %d", len(s), limit)}
	}
	ascii := true
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == 0x7f {
			return &NameError{field, s, fmt.Sprintf("has a control character at byte %d", i)}
		} else if c >= utf8.RuneSelf {
			ascii = false
		}
	}
	if ascii {
		return nil
	}
	if !utf8.ValidString(s) {
		return &NameError{field, s, "is not valid UTF-8"}
	}
	for i, r := range s {
		if !unicode.IsPrint(r) || unicode.In(r, unseen...) {
			return &NameError{field, s, fmt.Sprintf("has the invisible character %U at byte %d", r, i)}
		}
	}
	return nil
}
