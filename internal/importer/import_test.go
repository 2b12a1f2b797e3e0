package importer

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/klauspost/compress/zstd"
)

// line is an event of a file.
func line(tenant, stream string, version int, extra string) string {
	return fmt.Sprintf(`{"tenant":%q,"stream":%q,"version":%d,"type":"T%d","occurred_at":"2026-01-02T03:04:05.000006Z"%s,"data":{"v":%d}}`+"\n",
		tenant, stream, version, version%3, extra, version)
}

// mixed returns n lines of several tenants and streams, in order.
func mixed(n int) string {
	rng := rand.New(rand.NewPCG(1, 2))
	versions := map[[2]string]int{}
	var b strings.Builder
	for range n {
		k := [2]string{fmt.Sprintf("tenant-%d", rng.IntN(7)), fmt.Sprintf("stream-%d", rng.IntN(50))}
		versions[k]++
		extra := ""
		switch rng.IntN(4) {
		case 0:
			extra = fmt.Sprintf(`,"id":"%s/%s/%d"`, k[0], k[1], versions[k])
		case 1:
			extra = `,"metadata":{"a":"b","ü":"\"<"}`
		}
		b.WriteString(line(k[0], k[1], versions[k], extra))
	}
	return b.String()
}

func imported(t *testing.T, im *Importer, name, text string) {
	t.Helper()
	if err := im.Import(t.Context(), name, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
}

func exported(t *testing.T, log eventlog.Log, s Selection) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := Export(t.Context(), log, &b, s, nil); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestImportAndExportKeepEverything(t *testing.T) {
	const n = 3*blockLines + 17
	text := mixed(n)
	zipped := func(w io.WriteCloser, b *bytes.Buffer) []byte {
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var gz, zs bytes.Buffer
	z, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string][]byte{
		"plain":             []byte(text),
		"gzip":              zipped(gzip.NewWriter(&gz), &gz),
		"zstd":              zipped(z, &zs),
		"no new line":       []byte(strings.TrimSuffix(text, "\n")),
		"carriage returns":  []byte(strings.ReplaceAll(text, "\n", "\r\n")),
		"empty lines":       []byte("\n" + strings.ReplaceAll(text, "\n", "\n \n")),
		"read byte by byte": nil,
	} {
		t.Run(name, func(t *testing.T) {
			log := memlog.New()
			im := Importer{Log: log}
			var r io.Reader = bytes.NewReader(file)
			if file == nil {
				r = iotestOneByte{strings.NewReader(text)}
			}
			if err := im.Import(t.Context(), name, r); err != nil {
				t.Fatal(err)
			}
			if im.Counts.Appended != n || im.Counts.Present != 0 || im.Counts.Bad != 0 {
				t.Errorf("counts: got %+v, want %d appended", im.Counts, n)
			}
			back := exported(t, log, Selection{})
			// Not the same text, but the same again and again.
			again := memlog.New()
			imported(t, &Importer{Log: again}, "back", back)
			if got := exported(t, again, Selection{}); got != back || strings.Count(back, "\n") != n {
				t.Errorf("exported %d lines, imported and exported again it differs: %t", strings.Count(back, "\n"), got != back)
			}
			if back != text {
				diff(t, back, text)
			}
		})
	}
}

type iotestOneByte struct{ r io.Reader }

func (r iotestOneByte) Read(p []byte) (int, error) { return r.r.Read(p[:1]) }

func diff(t *testing.T, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Fatalf("line %d:\ngot  %s\nwant %s", i+1, g[i], w[i])
		}
	}
	t.Fatalf("got %d lines, want %d", len(g), len(w))
}

// TestClass: the traffic class is a key of a line that is left out where it is "",
// survives export and import, and selects what is exported.
func TestClass(t *testing.T) {
	text := line("a", "s", 1, "") +
		strings.Replace(line("a", "s", 2, ""), `,"occurred_at"`, `,"class":"test","occurred_at"`, 1) +
		strings.Replace(line("b", "s", 1, ""), `,"occurred_at"`, `,"class":"load/é","occurred_at"`, 1)
	log := memlog.New()
	imported(t, &Importer{Log: log}, "f", strings.Replace(text, `"version":1`, `"class":"","version":1`, 1))
	if got := exported(t, log, Selection{}); got != text {
		diff(t, got, text)
	}
	lines := strings.SplitAfter(text, "\n")
	for class, want := range map[string]string{"": lines[0], "test": lines[1], "load/é": lines[2], "other": ""} {
		if got := exported(t, log, Selection{Classes: []string{class}}); got != want {
			t.Errorf("class %q: exported %q, want %q", class, got, want)
		}
	}
}

func TestImportAgainChangesNothing(t *testing.T) {
	const n = 2 * blockLines
	text := mixed(n)
	lines := strings.SplitAfter(text, "\n")
	for _, cut := range []int{0, 1, 777, blockLines, blockLines + 1, n - 1, n} {
		t.Run(fmt.Sprintf("after %d lines", cut), func(t *testing.T) {
			log := memlog.New()
			imported(t, &Importer{Log: log}, "first", strings.Join(lines[:cut], ""))
			im := Importer{Log: log}
			imported(t, &im, "second", text)
			if im.Counts.Present != int64(cut) || im.Counts.Appended != int64(n-cut) {
				t.Errorf("counts: got %+v, want %d present and %d appended", im.Counts, cut, n-cut)
			}
			if got := exported(t, log, Selection{}); got != text {
				diff(t, got, text)
			}
		})
	}
}

func TestBadLines(t *testing.T) {
	good := line("a", "s", 1, "") + line("a", "s", 2, "")
	for _, tt := range []struct {
		name, bad string
		why       string // a part of the reason
	}{
		{"no JSON", "hello\n", "no event"},
		{"half a line", `{"tenant":"a","stream":"s"` + "\n", "unexpected EOF"},
		{"an array", "[1]\n", "no event"},
		{"two values", strings.TrimSuffix(line("a", "s", 3, ""), "\n") + "{}\n", "no event"},
		{"an unknown field", line("a", "s", 3, `,"ocurred_at":1`), "ocurred_at"},
		{"a field twice", line("a", "s", 3, `,"tenant":"b"`), "duplicate"},
		{"a field twice in the data", strings.Replace(line("a", "s", 3, ""), `{"v":3}`, `{"v":3,"v":4}`, 1), "duplicate"},
		{"not UTF-8", line("a", "s", 3, ",\"id\":\"\xff\""), "UTF-8"},
		{"no tenant", strings.Replace(line("a", "s", 3, ""), `"tenant":"a",`, "", 1), "tenant"},
		{"empty tenant", line("", "s", 1, ""), "tenant \"\" is empty"},
		{"NUL in the tenant", strings.Replace(line("a", "s", 3, ""), `"a"`, `"a\u0000"`, 1), "control character"},
		{"right-to-left mark in the tenant", line("a\u200f", "s", 1, ""), "invisible"},
		{"10 kB of tenant", line(strings.Repeat("x", 10_000), "s", 1, ""), "more than 128"},
		{"no stream", strings.Replace(line("a", "s", 3, ""), `"stream":"s",`, "", 1), "stream"},
		{"no type", strings.Replace(line("a", "s", 3, ""), `"type":"T0",`, "", 1), "type"},
		{"a class with a control character", line("a", "s", 3, `,"class":"a\u0000"`), "class"},
		{"129 bytes of class", line("a", "s", 3, fmt.Sprintf(`,"class":%q`, strings.Repeat("c", 129))), "more than 128"},
		{"a class that is no text", line("a", "s", 3, `,"class":1`), "class"},
		{"no version", strings.Replace(line("a", "s", 3, ""), `"version":3,`, "", 1), "version is 0"},
		{"version 0", line("a", "s", 0, ""), "version is 0"},
		{"a negative version", line("a", "s", -1, ""), "version is -1"},
		{"a version as text", strings.Replace(line("a", "s", 3, ""), `"version":3`, `"version":"3"`, 1), "version"},
		{"a version with a fraction", strings.Replace(line("a", "s", 3, ""), `"version":3`, `"version":3.5`, 1), "version"},
		{"no time", strings.Replace(line("a", "s", 3, ""), `"occurred_at":"2026-01-02T03:04:05.000006Z",`, "", 1), "occurred_at is missing"},
		{"no such time", strings.Replace(line("a", "s", 3, ""), `2026-01-02`, `2026-13-02`, 1), "occurred_at"},
		{"a year after 9999 in UTC", strings.Replace(line("a", "s", 3, ""), `2026-01-02T03:04:05.000006Z`, `9999-12-31T23:59:59-01:00`, 1),
			`stream "s" of tenant "a": event 1 of the append occurred at 10000-01-01T00:59:59Z`},
		{"a year before 1 in UTC", strings.Replace(line("a", "s", 3, ""), `2026-01-02T03:04:05.000006Z`, `0001-01-01T00:00:00+01:00`, 1), "want a year from 1"},
		{"no data", strings.Replace(line("a", "s", 3, ""), `,"data":{"v":3}`, "", 1), "data is missing"},
		{"both data", line("a", "s", 3, `,"data_base64":""`), "both"},
		{"no base64", strings.Replace(line("a", "s", 3, ""), `"data":{"v":3}`, `"data_base64":"%"`, 1), "data_base64"},
		{"metadata that are no object of strings", line("a", "s", 3, `,"metadata":{"a":1}`), "metadata"},
		{"metadata of 64 KiB and a byte", line("a", "s", 3, fmt.Sprintf(`,"metadata":{"k":%q}`, strings.Repeat("v", eventlog.MaxMetadata))),
			"has 65537 bytes of metadata, more than 65536"},
		{"an id of another event", line("a", "s", 3, `,"id":"1:a/s@1"`), "reserved for version 1"},
		{"a gap", line("a", "s", 4, ""), `version 4 of stream "s" of tenant "a", but the version before it is 2`},
		{"a new stream that begins late", line("a", "new", 2, ""), "the version before it is 0"},
		{"a version again, of another type", strings.Replace(line("a", "s", 2, ""), "T2", "Other", 1), "in line 2 too, and differs"},
		{"an id that is taken", line("a", "s", 3, `,"id":"x"`) + line("b", "s", 1, `,"id":"x"`), `event id "x" is taken`},
		{"too long", strings.Repeat("x", MaxLine+2) + "\n", "longer than 64 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			badAt := int64(2 + strings.Count(tt.bad, "\n"))
			log := memlog.New()
			im := Importer{Log: log}
			err := im.Import(t.Context(), "events.jsonl", strings.NewReader(good+tt.bad+line("c", "s", 1, "")))
			fault, ok := errors.AsType[*Fault](err)
			if !ok {
				t.Fatalf("Import: got %v, want a Fault", err)
			}
			if fault.Line != badAt || !strings.Contains(fault.Error(), tt.why) || !strings.HasPrefix(fault.Error(), fmt.Sprintf("events.jsonl:%d: ", badAt)) {
				t.Errorf("fault: got %v in line %d, want %q in line %d", fault, fault.Line, tt.why, badAt)
			}
			if got := exported(t, log, Selection{}); got != "" {
				t.Errorf("of its block was imported:\n%s", got)
			}

			log = memlog.New()
			var faults []Fault
			im = Importer{Log: log, Bad: func(f Fault) error { faults = append(faults, f); return nil }}
			imported(t, &im, "events.jsonl", good+tt.bad+line("c", "s", 1, ""))
			if len(faults) != 1 || faults[0].Line != badAt || im.Counts.Bad != 1 {
				t.Fatalf("collected %v, counts %+v, want one bad line, %d", faults, im.Counts, badAt)
			}
			wantText := strings.TrimSuffix(tt.bad[strings.LastIndexByte(strings.TrimSuffix(tt.bad, "\n"), '\n')+1:], "\n")
			if faults[0].Cut {
				wantText = wantText[:1024]
			}
			if string(faults[0].Text) != wantText {
				t.Errorf("text: got %.100q, want %.100q", faults[0].Text, wantText)
			}
			if got := exported(t, log, Selection{Tenants: []string{"c"}}); strings.Count(got, "\n") != 1 {
				t.Errorf("after the bad line: got %q, want one event", got)
			}
		})
	}
}

func TestEveryLineIsAccountedFor(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	lines := strings.SplitAfter(strings.TrimSuffix(mixed(3000), "\n"), "\n")
	for i := range lines {
		switch rng.IntN(40) {
		case 0:
			lines[i] = "broken\n"
		case 1:
			lines[i] = lines[max(0, i-1)] // again
		}
	}
	bad := int64(0)
	log := memlog.New()
	im := Importer{Log: log, Bad: func(Fault) error { bad++; return nil }}
	imported(t, &im, "f", strings.Join(lines, ""))
	c := im.Counts
	if c.Lines != int64(len(lines)) || c.Appended+c.Present+c.Bad != c.Lines || bad != c.Bad || bad == 0 || c.Present == 0 {
		t.Errorf("counts: got %+v, %d collected, want them to add up to %d lines", c, bad, len(lines))
	}
	if got := strings.Count(exported(t, log, Selection{}), "\n"); int64(got) != c.Appended {
		t.Errorf("the log has %d events, want the %d that were appended", got, c.Appended)
	}
}

func TestConflictWithTheLog(t *testing.T) {
	log := memlog.New()
	imported(t, &Importer{Log: log}, "first", line("a", "s", 1, `,"id":"one"`)+line("a", "s", 2, ""))
	for _, tt := range []struct{ name, line, why string }{
		{"another type", strings.Replace(line("a", "s", 2, ""), "T2", "Other", 1), `is in the log already, and is another event: type "T2"`},
		{"another id", line("a", "s", 1, `,"id":"two"`), `id "one" there`},
		{"an id under another version", line("a", "s", 3, `,"id":"one"`), `under other versions`},
		{"an id in another stream", line("b", "s", 1, `,"id":"one"`), `event id "one" is taken`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := (&Importer{Log: log}).Import(t.Context(), "f", strings.NewReader(tt.line))
			if err == nil || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("Import: got %v, want %q", err, tt.why)
			}
			if n := strings.Count(exported(t, log, Selection{}), "\n"); n != 2 {
				t.Errorf("the log has %d events, want 2", n)
			}
		})
	}
}

// otherWriter appends to a stream just before an import does.
type otherWriter struct {
	*memlog.Log
	times int
}

func (o *otherWriter) Append(ctx context.Context, a ...eventlog.StreamAppend) (eventlog.Token, error) {
	if o.times > 0 {
		o.times--
		if _, err := o.Log.Append(ctx, eventlog.StreamAppend{Tenant: "a", Stream: "s", Events: []eventlog.NewEvent{{Type: "T1", Data: []byte("1")}}}); err != nil {
			return eventlog.Token{}, err
		}
	}
	return o.Log.Append(ctx, a...)
}

func TestAnotherWriterOnTheSameStream(t *testing.T) {
	log := &otherWriter{Log: memlog.New(), times: 1}
	im := Importer{Log: log}
	imported(t, &im, "f", line("a", "s", 1, "")+line("a", "s", 2, ""))
	// The other one's event is version 1, of the same type: it counts as there.
	if im.Counts.Present != 1 || im.Counts.Appended != 1 {
		t.Errorf("counts: got %+v, want 1 present and 1 appended", im.Counts)
	}
}

func TestSelection(t *testing.T) {
	log := memlog.New()
	text := line("a", "s", 1, "") + line("b", "s", 1, "") + line("a", "s", 2, "")
	imported(t, &Importer{Log: log}, "f", text)
	day := func(s string) (tm Selection) { tm.From, _ = parseDay(s); return tm }
	until := func(s string) (tm Selection) { tm.To, _ = parseDay(s); return tm }
	for _, tt := range []struct {
		name string
		s    Selection
		want int
	}{
		{"all", Selection{}, 3},
		{"a tenant", Selection{Tenants: []string{"a"}}, 2},
		{"a type", Selection{Types: []string{"T1"}}, 2},
		{"both", Selection{Tenants: []string{"a"}, Types: []string{"T1"}}, 1},
		{"from before", day("2026-01-02"), 3},
		{"from after", day("2026-01-03"), 0},
		{"to before", until("2026-01-02"), 0},
		{"to after", until("2026-01-03"), 3},
	} {
		if got := strings.Count(exported(t, log, tt.s), "\n"); got != tt.want {
			t.Errorf("%s: got %d events, want %d", tt.name, got, tt.want)
		}
	}
}

func TestWhatIsNoJSONComesBack(t *testing.T) {
	log := memlog.New()
	want := []byte{0, 1, 0xff, '\n'}
	if _, err := log.Append(t.Context(), eventlog.StreamAppend{Tenant: "a", Stream: "s", Events: []eventlog.NewEvent{{Type: "T", Data: want}}}); err != nil {
		t.Fatal(err)
	}
	again := memlog.New()
	imported(t, &Importer{Log: again}, "f", exported(t, log, Selection{}))
	page, err := again.Read(t.Context(), eventlog.ReadRequest{})
	if err != nil || len(page.Events) != 1 || !bytes.Equal(page.Events[0].Data, want) {
		t.Errorf("got %v, %v, want the same bytes", page.Events, err)
	}
}

func TestACutFile(t *testing.T) {
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := io.WriteString(w, mixed(5000)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	log := memlog.New()
	im := Importer{Log: log}
	err := im.Import(t.Context(), "cut.gz", bytes.NewReader(gz.Bytes()[:gz.Len()*3/4]))
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "cut.gz: after line ") {
		t.Errorf("Import: got %v, want an unexpected end after some line", err)
	}
	if got := strings.Count(exported(t, log, Selection{}), "\n"); int64(got) != im.Counts.Appended || got == 0 {
		t.Errorf("the log has %d events, %d are counted", got, im.Counts.Appended)
	}
}

func TestImportEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	im := Importer{Log: memlog.New(), Progress: func(Counts) { cancel() }}
	if err := im.Import(ctx, "f", strings.NewReader(mixed(20*blockLines))); !errors.Is(err, context.Canceled) {
		t.Errorf("Import: got %v, want %v", err, context.Canceled)
	}
	if im.Counts.Lines >= 20*blockLines {
		t.Errorf("all lines were imported after the end of the context")
	}
}
