package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// A table is lined up as it is flushed.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, columns ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.row(anys(columns)...)
	return t
}

func anys(s []string) []any {
	a := make([]any, len(s))
	for i := range s {
		a[i] = s[i]
	}
	return a
}

// row adds a row. Text is made safe for a terminal.
func (t table) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, cell(c))
	}
	fmt.Fprintln(t.w)
}

func (t table) flush() error { return t.w.Flush() }

func cell(v any) string {
	switch v := v.(type) {
	case string:
		if v == "" {
			return "-"
		}
		return printable(v)
	case int:
		return thousands(int64(v))
	case int64:
		return thousands(v)
	case float64:
		return strconv.FormatFloat(v, 'g', 6, 64)
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case time.Duration:
		return duration(v)
	case time.Time:
		if v.IsZero() {
			return "-"
		}
		return v.Local().Format("2006-01-02 15:04:05")
	}
	return printable(fmt.Sprint(v))
}

// printable quotes s if it has anything that a terminal may not show as it is:
// keys and errors come from outside.
func printable(s string) string {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}

func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = printable(l)
	}
	return strings.Join(lines, "\n")
}

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// duration rounds d to what people read.
func duration(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < 10*time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// writeJSON writes v as one line.
func (p *program) writeJSON(v any) error {
	e := json.NewEncoder(p.Stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// done reports what a command has done: a sentence, or v as JSON.
func (p *program) done(v any, format string, args ...any) error {
	if p.JSON {
		return p.writeJSON(v)
	}
	_, err := fmt.Fprintln(p.Stdout, printable(fmt.Sprintf(format, args...)))
	return err
}

// stamp is t in JSON: null where it is zero.
func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// short cuts s to n characters.
func short(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// A progress line on stderr: rewritten in place on a terminal, else a line every
// few seconds. The zero progress says nothing.
type progress struct {
	w        io.Writer
	terminal bool
	next     time.Time
	shown    bool
}

func (p *program) progress(quiet bool) *progress {
	if quiet {
		return &progress{}
	}
	return &progress{w: p.Stderr, terminal: isTerminal(p.Stderr), next: time.Now().Add(time.Second)}
}

func (p *progress) say(line func() string) {
	now := time.Now()
	if p.w == nil || now.Before(p.next) {
		return
	}
	if p.terminal {
		p.next = now.Add(200 * time.Millisecond)
		fmt.Fprintf(p.w, "\r\x1b[K%s", line())
		p.shown = true
		return
	}
	p.next = now.Add(5 * time.Second)
	fmt.Fprintln(p.w, line())
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprintln(p.w)
	}
}
