package postgres

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestSplitJSON(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in, want string // want "": nil
		whole    bool
	}{
		{`{"a":[1,-2.5e10,"x"],"b":null}`, `{"a":[1,-2.5e10,"x"],"b":null}`, true},
		{`"\u0000"`, `"` + "\ufffd" + `"`, false},
		{`"a\u0000b\u0000"`, `"a` + "\ufffdb\ufffd" + `"`, false},
		{`"\\u0000"`, `"\\u0000"`, true},
		{`"\\\u0000"`, `"\\` + "\ufffd" + `"`, false},
		{`"\\\\u0000\\"`, `"\\\\u0000\\"`, true},
		{`"\ud83d\ude00"`, `"\ud83d\ude00"`, true},
		{`"\uD83D\uDE00"`, `"\uD83D\uDE00"`, true},
		{`"\ud83d"`, "\"\ufffd\"", false},
		{`"\ude00\ud83d"`, "\"\ufffd\ufffd\"", false},
		{`"\ud83d\u0041"`, "\"\ufffd\\u0041\"", false},
		{`"\ud83d\ud83d\ude00"`, "\"\ufffd\\ud83d\\ude00\"", false},
		{`"\ud83d\\ude00"`, "\"\ufffd\\\\ude00\"", false},
		{`{"\u0000":{"\udfff":"\u0000"}}`, "{\"\ufffd\":{\"\ufffd\":\"\ufffd\"}}", false},
		{`"\u00e9\n\""`, `"\u00e9\n\""`, true},
		{`-0`, `-0`, false},
		{`[-0.00,1]`, `[-0.00,1]`, false},
		{`-0e7`, `-0e7`, false},
		{`[-0.01,0,-10,0.0]`, `[-0.01,0,-10,0.0]`, true},
		{`"-0"`, `"-0"`, true},
		{`1e9999`, `1e9999`, true},
		{`1E+00009999`, `1E+00009999`, true},
		{`1e10000`, "", false},
		{`[1e-10000]`, "", false},
		{`"1e10000"`, `"1e10000"`, true},
		{strings.Repeat("1", 1001), "", false},
		{strings.Repeat("1", 1000), strings.Repeat("1", 1000), true},
		{strings.Repeat("[", 1001) + strings.Repeat("]", 1001), "", false},
		{strings.Repeat("[", 1000) + strings.Repeat("]", 1000), strings.Repeat("[", 1000) + strings.Repeat("]", 1000), true},
		// What is not JSON is for the server to refuse.
		{`"\u0000`, `"\u0000`, true},
		{`"\u0000" x`, `"\u0000" x`, true},
		{`"\u00`, `"\u00`, true},
		{`"\`, `"\`, true},
		{``, ``, true},
		{"[\"\\u0000\",\"\xff\"]", "[\"\\u0000\",\"\xff\"]", true},
		{`[1e10000`, `[1e10000`, true},
	} {
		got, whole := splitJSON([]byte(tt.in))
		if string(got) != tt.want || whole != tt.whole || (got == nil) != (tt.want == "" && tt.in != "") {
			t.Errorf("splitJSON(%.80s) = %.80s, %t, want %.80s, %t", tt.in, got, whole, tt.want, tt.whole)
		}
	}
}

// FuzzSplitJSON: on a server, jsonb takes what it is given, and it is the value of
// the document wherever that is said.
func FuzzSplitJSON(f *testing.F) {
	for _, s := range []string{`{"a":"\ud800\u0000"}`, `[-0,1e5,"\\u0000",{"b":[]}]`, `"é"`, `"\u0000`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		valid := json.Valid(data) && utf8.Valid(data)
		document, whole := splitJSON(data)
		switch {
		case whole && string(document) != string(data):
			t.Errorf("splitJSON(%q) = %q, and says that it is whole", data, document)
		case !whole && !valid:
			t.Errorf("splitJSON(%q) is kept to the byte, and is no JSON", data)
		case !whole && document != nil && !json.Valid(document):
			t.Errorf("splitJSON(%q) = %q, which is no JSON", data, document)
		}
		if _, again := splitJSON(document); document != nil && !whole && !again && !strings.Contains(string(document), "-0") {
			t.Errorf("splitJSON(%q) = %q, which jsonb cannot hold either", data, document)
		}
	})
}

func BenchmarkSplitJSON(b *testing.B) {
	data := someWrites(1, 0)[0].Data
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, whole := splitJSON(data); !whole {
			b.Fatal("not whole")
		}
	}
}
