package sqlite

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	zs "zombiezen.com/go/sqlite"
)

// FuzzMetadata shows that metadata come back as they were, and that of stored
// bytes none is worse than an error.
func FuzzMetadata(f *testing.F) {
	f.Add("k", "v", "", "", []byte(`{"a":"b","a":"\ud800"}`), false)
	f.Add("\x00", `"\`, "\xff", "é", []byte("\x01k\x01v"), true)
	f.Add("", "", "<\u2028>", "\x7f", []byte("null"), false)
	f.Add("a", "", "b", "", []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01k"), true)
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string, stored []byte, blob bool) {
		roundTrip := func(m event.Metadata) {
			b, blob := encodeMetadata(m)
			if b == nil { // is stored as NULL
				if len(m) > 0 {
					t.Errorf("metadata %q are stored as NULL", m)
				}
				return
			}
			got, err := decodeMetadata(b, blob)
			if err != nil || !maps.Equal(got, m) {
				t.Errorf("metadata %q came back from %q as %q, %v", m, b, got, err)
			}
		}
		roundTrip(event.Metadata{k1: v1, k2: v2})
		m, err := decodeMetadata(stored, blob)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%q as metadata: %v, want ErrCorrupt", stored, err)
			}
			return
		}
		roundTrip(m)
	})
}

// FuzzPostings shows that positions come back as they were, and that of stored
// bytes none is worse than an error.
func FuzzPostings(f *testing.F) {
	f.Add([]byte{1, 1, 1, 0x80, 1})
	f.Add([]byte{0x80})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	decode := func(b []byte) (positions []int64, err error) {
		err = eachPosting(b, func(p int64) bool { positions = append(positions, p); return true })
		return positions, err
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		roundTrip := func(positions []int64) {
			var b []byte
			before := int64(0)
			for _, p := range positions {
				b = appendPosting(b, before, p)
				before = p
			}
			if got, err := decode(b); err != nil || !slices.Equal(got, positions) {
				t.Errorf("positions %d came back as %d, %v", positions, got, err)
			}
		}
		var ascending []int64
		for b := stored; len(b) >= 8; b = b[8:] {
			ascending = append(ascending, int64(binary.LittleEndian.Uint64(b)>>1))
		}
		slices.Sort(ascending)
		roundTrip(ascending)

		positions, err := decode(stored)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("% x as positions: %v, want ErrCorrupt", stored, err)
			}
			return
		}
		roundTrip(positions)
	})
}

// FuzzTimes shows that every time comes back as it was, and that of stored text
// none is worse than an error.
func FuzzTimes(f *testing.F) {
	f.Add(int64(0), int64(0), "2026-01-02T03:04:05.000006+07:00")
	f.Add(int64(-62135596800), int64(0), "-0001-02-29T00:00:00Z") // the zero time
	f.Add(int64(9223372036), int64(854775807), "292277022398-12-31T23:59:59.999999999Z")
	f.Add(int64(9223372036), int64(854775808), "10000-01-01T00:00:00Z")
	for _, at := range oddTimes {
		f.Add(at.Unix(), int64(at.Nanosecond()), at.UTC().Format(time.RFC3339Nano))
	}
	c, err := zs.OpenConn(":memory:")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { c.Close() })
	s, err := c.Prepare("SELECT ?")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sec, nsec int64, text string) {
		through := func(bind func()) (time.Time, error) {
			bind()
			if ok, err := s.Step(); err != nil || !ok {
				t.Fatal(ok, err)
			}
			got, err := columnTime(s, 0)
			if err := s.Reset(); err != nil {
				t.Fatal(err)
			}
			return got, err
		}
		roundTrip := func(at time.Time) {
			got, err := through(func() { bindTime(s, 1, at) })
			if err != nil || !got.Equal(at) || got.Location() != time.UTC {
				t.Errorf("time %v (%d s, %d ns) came back as %v, %v", at.UTC(), at.Unix(), at.Nanosecond(), got, err)
			}
		}
		at := time.Unix(sec, nsec).UTC()
		if y := at.Year(); -maxYear <= y && y <= maxYear {
			roundTrip(at)
		}
		got, err := through(func() { s.BindText(1, text) })
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%q as a time: %v, want ErrCorrupt", text, err)
			}
			return
		}
		roundTrip(got)
	})
}
