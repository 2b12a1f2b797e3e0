package projection_test

import (
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/projection"
)

func TestJSONEncode(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    any
		want string // "": refused
	}{
		{"map keys are sorted", &map[string]int{"b": 1, "a": 2, "c": 3}, `{"a":2,"b":1,"c":3}`},
		{"nil slice and map", &struct {
			S []int
			M map[string]int
		}{}, `{"S":[],"M":{}}`},
		{"HTML is not escaped", new("<&>"), `"<&>"`},
		{"a duration", new(time.Second), `1000000000`},
		{"a time", new(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)), `"2026-01-02T03:04:05.000000006Z"`},
		{"bytes", &[]byte{1, 2}, `"AQI="`},
		{"not UTF-8", new("\xff"), ``},
		{"a channel", new(chan int), ``},
		{"keys that are written alike", &map[folded]int{{1}: 1, {2}: 2}, ``},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := projection.JSON{}.Encode(tt.v)
			if (err != nil) != (tt.want == "") || err == nil && string(got) != tt.want {
				t.Errorf("Encode = %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

// folded is a map key that is always written in one way: what it makes could
// not be read back.
type folded struct{ n int }

func (folded) MarshalText() ([]byte, error) { return []byte("x"), nil }

func TestJSONIsDeterministic(t *testing.T) {
	m := map[int]string{}
	for i := range 100 {
		m[i] = "x"
	}
	first, err := projection.JSON{}.Encode(&m)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if again, _ := (projection.JSON{}).Encode(&m); string(again) != string(first) {
			t.Fatalf("Encode = %s and %s", first, again)
		}
	}
}

func TestJSONDecodeDuration(t *testing.T) {
	var d struct{ D time.Duration }
	if err := (projection.JSON{}).Decode([]byte(`{"D":1500}`), &d); err != nil || d.D != 1500 {
		t.Errorf("Decode = %v, %v, want 1.5µs", d.D, err)
	}
}
