package event_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/fairlead-dev/fairlead/event"
)

func TestCheckTenant(t *testing.T) {
	for _, tt := range []struct {
		name, tenant string
		why          string // a part of NameError.Why; "" where the tenant is acceptable
	}{
		{"plain", "acme", ""},
		{"one byte", "a", ""},
		{"as long as may be", strings.Repeat("a", event.MaxTenant), ""},
		{"one byte too long", strings.Repeat("a", event.MaxTenant+1), "129 bytes, more than 128"},
		{"10 kB", strings.Repeat("x", 10_000), "10000 bytes"},
		{"too long in bytes, not in characters", strings.Repeat("é", 65), "130 bytes"},
		{"as long as may be, not ASCII", strings.Repeat("é", 64), ""},
		{"empty", "", "is empty"},
		{"quotes", `O'Neil "and" co`, ""},
		{"SQL", `'; DROP TABLE events; --`, ""},
		{"path", `../../etc/passwd`, ""},
		{"back slashes", `..\..\x`, ""},
		{"per cent and format verbs", `100%s %d`, ""},
		{"spaces inside", "a b", ""},
		{"emoji", "shop 🛒", ""},
		{"Japanese", "東京支店", ""},
		{"Arabic letters", "متجر", ""},
		{"combining accent", "e\u0301", ""},
		{"NUL", "a\x00b", "control character at byte 1"},
		{"new line", "a\n", "control character at byte 1"},
		{"tab", "\ta", "control character at byte 0"},
		{"delete", "a\x7f", "control character at byte 1"},
		{"escape sequence", "\x1b[31mred", "control character at byte 0"},
		{"C1 control", "a\u0085b", "invisible character U+0085 at byte 1"},
		{"right-to-left override", "a\u202eb", "invisible character U+202E at byte 1"},
		{"right-to-left mark", "a\u200f", "invisible character U+200F"},
		{"left-to-right isolate", "\u2066a", "invisible character U+2066 at byte 0"},
		{"zero width space", "ac\u200bme", "invisible character U+200B at byte 2"},
		{"zero width joiner", "ac\u200dme", "invisible character U+200D"},
		{"byte order mark", "\ufeffacme", "invisible character U+FEFF"},
		{"soft hyphen", "ac\u00adme", "invisible character U+00AD"},
		{"no-break space", "a\u00a0b", "invisible character U+00A0"},
		{"line separator", "a\u2028b", "invisible character U+2028"},
		{"variation selector", "a\ufe0f", "invisible character U+FE0F at byte 1"},
		{"variation selector supplement", "a\U000e0100", "invisible character U+E0100"},
		{"tag character", "a\U000e0041", "invisible character U+E0041"},
		{"combining grapheme joiner", "a\u034f", "invisible character U+034F"},
		{"Hangul filler", "\u3164", "invisible character U+3164"},
		{"blank Braille", "\u2800", "invisible character U+2800"},
		{"private use", "a\ue000", "invisible character U+E000"},
		{"not assigned", "a\u0378", "invisible character U+0378"},
		{"not UTF-8", "a\xff", "is not valid UTF-8"},
		{"half a surrogate pair", "a\xed\xa0\x80", "is not valid UTF-8"},
		{"overlong slash", "a\xc0\xaf", "is not valid UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := event.CheckTenant(tt.tenant)
			if tt.why == "" {
				if err != nil {
					t.Fatalf("CheckTenant(%q) = %v, want nil", tt.tenant, err)
				}
				return
			}
			nameErr, ok := errors.AsType[*event.NameError](err)
			if !ok || !errors.Is(err, event.ErrInvalidName) {
				t.Fatalf("CheckTenant(%q) = %v, want a NameError", tt.tenant, err)
			}
			if nameErr.Field != "tenant" || nameErr.Name != tt.tenant || !strings.Contains(nameErr.Why, tt.why) {
				t.Errorf("CheckTenant(%q) = %+v, want field tenant and why with %q", tt.tenant, nameErr, tt.why)
			}
			checkPrintable(t, err.Error())
		})
	}
}

func TestCheckLimits(t *testing.T) {
	for _, tt := range []struct {
		field string
		check func(string) error
		limit int
	}{
		{"tenant", event.CheckTenant, event.MaxTenant},
		{"stream", event.CheckStream, event.MaxStream},
		{"type", event.CheckType, event.MaxType},
		{"id", event.CheckID, event.MaxID},
		{"class", event.CheckClass, event.MaxClass},
	} {
		t.Run(tt.field, func(t *testing.T) {
			if err := tt.check(strings.Repeat("a", tt.limit)); err != nil {
				t.Errorf("%d bytes: %v, want nil", tt.limit, err)
			}
			err := tt.check(strings.Repeat("a", tt.limit+1))
			if nameErr, ok := errors.AsType[*event.NameError](err); !ok || nameErr.Field != tt.field {
				t.Errorf("%d bytes: %v, want a NameError of field %q", tt.limit+1, err, tt.field)
			}
		})
	}
}

func TestEventCheck(t *testing.T) {
	good := event.Event{Tenant: "t", Stream: "s", Type: "T"}
	for _, tt := range []struct {
		name   string
		change func(*event.Event)
		field  string // "" where the event is acceptable
	}{
		{"no id", func(*event.Event) {}, ""},
		{"with id", func(e *event.Event) { e.ID = "x" }, ""},
		{"no tenant", func(e *event.Event) { e.Tenant = "" }, "tenant"},
		{"no stream", func(e *event.Event) { e.Stream = "" }, "stream"},
		{"no type", func(e *event.Event) { e.Type = "" }, "type"},
		{"with class", func(e *event.Event) { e.Class = "test" }, ""},
		{"hostile class", func(e *event.Event) { e.Class = "test\u202e" }, "class"},
		{"hostile class with id", func(e *event.Event) { e.Class, e.ID = "\n", "x" }, "class"},
		{"hostile id", func(e *event.Event) { e.ID = "a\x00" }, "id"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := good
			tt.change(&e)
			err := e.Check()
			got := ""
			if nameErr, ok := errors.AsType[*event.NameError](err); ok {
				got = nameErr.Field
			} else if err != nil {
				t.Fatalf("Check() = %v, want a NameError", err)
			}
			if got != tt.field {
				t.Errorf("Check() refuses field %q (%v), want %q", got, err, tt.field)
			}
			page := []event.Event{e}
			event.Share(page)
			for _, reader := range []*event.Event{&e, &page[0], &page[0]} {
				if once := reader.CheckOnce(); fmt.Sprint(once) != fmt.Sprint(err) {
					t.Errorf("CheckOnce() = %v, want %v as Check() says", once, err)
				}
			}
		})
	}
}

func TestNameErrorIsCut(t *testing.T) {
	err := event.CheckTenant(strings.Repeat("長", 5_000))
	if err == nil || len(err.Error()) > 700 {
		t.Errorf("error has %d bytes, want at most 700: %v", len(err.Error()), err)
	}
	checkPrintable(t, err.Error())
}

// checkPrintable fails unless s is safe to print on a terminal.
func checkPrintable(t *testing.T, s string) {
	t.Helper()
	for i, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			t.Errorf("%+q has %U at byte %d, want printable characters only", s, r, i)
			return
		}
	}
}

func FuzzCheckTenant(f *testing.F) {
	for _, s := range []string{"acme", "", "a\x00", "a\u202eb", "\xff", "東京", strings.Repeat("a", 129), "a\ufe0f", "\u3164"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		err := event.CheckTenant(s)
		if err != nil {
			if !errors.Is(err, event.ErrInvalidName) {
				t.Errorf("CheckTenant(%q) = %v, want ErrInvalidName", s, err)
			}
			checkPrintable(t, err.Error())
			return
		}
		if s == "" || len(s) > event.MaxTenant || !utf8.ValidString(s) {
			t.Errorf("CheckTenant(%q) = nil for a name of %d bytes", s, len(s))
		}
		for _, r := range s {
			// The formal definition of "control or format character", from
			// another direction than the code's.
			if unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) || (unicode.IsSpace(r) && r != ' ') {
				t.Errorf("CheckTenant(%q) accepts %U", s, r)
			}
		}
		// Whatever a tenant may be called, its longer friends may be called too.
		for _, check := range []func(string) error{event.CheckStream, event.CheckType, event.CheckID, event.CheckClass} {
			if err := check(s); err != nil {
				t.Errorf("acceptable as a tenant, and yet: %v", err)
			}
		}
	})
}
