package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// A benchmark is worth what its checks find: each is given a fault.
func TestOrderCheckFinds(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  func(o *orderCheck)
		want string
	}{
		{"nothing in good order", func(o *orderCheck) {
			o.begin("a", 1)(true)
			o.begin("b", 1)(true)
			o.begin("a", 2)(false) // fails, and comes again
			o.begin("a", 2)(true)
		}, ""},
		{"two at once", func(o *orderCheck) {
			o.begin("a", 1)
			o.begin("a", 2)
		}, "beside another"},
		{"out of order", func(o *orderCheck) {
			o.begin("a", 1)(true)
			o.begin("a", 3)(true)
		}, "handled after 1"},
		{"again", func(o *orderCheck) {
			o.begin("a", 1)(true)
			o.begin("a", 1)(true)
		}, "handled after 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, o := range []*orderCheck{newOrderCheck(), newOrderCheck("a", "b")} {
				tt.run(o)
				got := ""
				if err := o.err(); err != nil {
					got = err.Error()
				}
				if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			}
		})
	}
}

func TestAppendedLogsAreCompared(t *testing.T) {
	calls := appendCalls(50, 30)
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "ours.db"), filepath.Join(dir, "loop.db")
	if _, err := appendOurs(t.Context(), ours, calls); err != nil {
		t.Fatal(err)
	}
	if _, err := appendTheirs(t.Context(), theirs, calls); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{ours, theirs} {
		if err := checkAppended(t.Context(), path, calls); err != nil {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
	}
	calls[20].Events[7].Data = []byte(`{}`)
	if err := checkAppended(t.Context(), ours, calls); err == nil || !strings.Contains(err.Error(), "wrong result") {
		t.Errorf("an event with another payload: got %v, want a wrong result", err)
	}
}

func TestCatchUpIsCompared(t *testing.T) {
	var out, log bytes.Buffer
	b := &bench{report: &report{out: &out, log: &log}, dir: t.TempDir()}
	c := catchupCases()[0]
	path := filepath.Join(b.dir, "filled.db")
	n, err := b.fill(t.Context(), path, c.set, 2000)
	if err != nil || n != 2000 {
		t.Fatalf("filled %d events, error %v", n, err)
	}
	_, want, err := prepareCatchup(t.Context(), path, c.d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.loop(path, 300); err != nil {
		t.Fatal(err)
	}
	if err := compareDocuments(path, c.d.Name(), want); err != nil {
		t.Fatal(err)
	}
	for k, d := range want {
		d.data = strings.Replace(d.data, `"lines":`, `"lines":1`, 1)
		want[k] = d
		break
	}
	if err := compareDocuments(path, c.d.Name(), want); err == nil || !strings.Contains(err.Error(), "wrong result") {
		t.Errorf("another document: got %v, want a wrong result", err)
	}
}

func TestResultLines(t *testing.T) {
	var out bytes.Buffer
	r := &report{out: &out, json: true, base: "2 cores"}
	r.start("dispatch", false)
	r.add("ratio", 0.81, "x", atLeast(0.6), "%d events", 5000)
	var got result
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if want := (result{"dispatch", "ratio", 0.81, "x", "5000 events; 2 cores"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if strings.Count(out.String(), "\n") != 1 {
		t.Errorf("%q is not one line", out.String())
	}
}
