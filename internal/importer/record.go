// Package importer reads events from JSON Lines into a log, and writes them from
// a log. An import is idempotent and can be broken off at any moment: an event
// that is there already is passed over by the version of its stream.
package importer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A record is one line of a file: one event.
type record struct {
	Tenant     string         `json:"tenant"`
	Stream     string         `json:"stream"`
	Version    int64          `json:"version"`
	Type       string         `json:"type"`
	Class      string         `json:"class"` // left out where it is ""
	OccurredAt time.Time      `json:"occurred_at"`
	ID         string         `json:"id"`
	Metadata   event.Metadata `json:"metadata"`
	Data       jsontext.Value `json:"data"`
	Data64     *string        `json:"data_base64"` // in place of data, where that is not JSON

	line int64 // from 1
	text []byte
}

// parseOptions make a misspelt field a fault, not a field that is not there.
var parseOptions = json.RejectUnknownMembers(true)

// parse reads a line and checks everything that can be without the log.
func (r *record) parse(text []byte) error {
	if err := json.Unmarshal(text, r, parseOptions); err != nil {
		return fmt.Errorf("no event: %w", err)
	}
	switch {
	case r.Version < 1:
		return fmt.Errorf("version is %d: it is missing, or not counted from 1", r.Version)
	case r.OccurredAt.IsZero():
		return errors.New("occurred_at is missing: a time such as 2026-01-31T12:00:00Z is needed")
	case r.Data == nil && r.Data64 == nil:
		return errors.New("data is missing")
	case r.Data != nil && r.Data64 != nil:
		return errors.New("both data and data_base64 are there")
	}
	if r.Data64 != nil {
		data, err := base64.StdEncoding.DecodeString(*r.Data64)
		if err != nil {
			return fmt.Errorf("data_base64: %w", err)
		}
		r.Data = data
	}
	// Here, so that what a log refuses is a bad line and not the end of its block.
	a := eventlog.StreamAppend{Tenant: r.Tenant, Stream: r.Stream, Events: []eventlog.NewEvent{r.event()}}
	if err := a.Check(); err != nil {
		return err
	}
	if t, s, v, ok := event.ParseDerivedID(r.ID); ok && (t != r.Tenant || s != r.Stream || v != r.Version) {
		return fmt.Errorf("id %q is reserved for version %d of stream %q of tenant %q", r.ID, v, s, t)
	}
	return nil
}

// event returns r as it is appended.
func (r *record) event() eventlog.NewEvent {
	return eventlog.NewEvent{ID: r.ID, Type: r.Type, Class: r.Class, OccurredAt: r.OccurredAt, Metadata: r.Metadata, Data: r.Data}
}

// appendLine appends e as a line. An id that follows from the rest is left out.
func appendLine(b []byte, e *event.Event) ([]byte, error) {
	var err error
	field := func(name, value string) {
		b = append(b, `,"`...)
		b = append(b, name...)
		b = append(b, `":`...)
		b = quote(b, value, &err)
	}
	start := len(b)
	field("tenant", e.Tenant)
	b[start] = '{'
	field("stream", e.Stream)
	b = append(b, `,"version":`...)
	b = strconv.AppendInt(b, e.Version, 10)
	field("type", e.Type)
	if e.Class != "" {
		field("class", e.Class)
	}
	b = append(b, `,"occurred_at":"`...)
	b = e.OccurredAt.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	if _, _, _, derived := event.ParseDerivedID(e.ID); e.ID != "" && !derived {
		field("id", e.ID)
	}
	if len(e.Metadata) > 0 {
		b = append(b, `,"metadata":`...)
		sep := byte('{')
		for _, k := range slices.Sorted(maps.Keys(e.Metadata)) {
			b = append(b, sep)
			b = quote(b, k, &err)
			b = append(b, ':')
			b = quote(b, e.Metadata[k], &err)
			sep = ','
		}
		b = append(b, '}')
	}
	if data := jsontext.Value(e.Data); data.IsValid() {
		b = append(b, `,"data":`...)
		if slices.Contains(data, '\n') || slices.Contains(data, '\r') {
			data = data.Clone()
			if err := data.Compact(); err != nil {
				return nil, err
			}
		}
		b = append(b, data...)
	} else {
		b = append(b, `,"data_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, e.Data)
		b = append(b, '"')
	}
	return append(b, "}\n"...), err
}

func quote(b []byte, s string, err *error) []byte {
	q, e := jsontext.AppendQuote(b, s)
	if e != nil && *err == nil {
		*err = fmt.Errorf("%q cannot be written as JSON: %w", s, e)
	}
	return q
}
