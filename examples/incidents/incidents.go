package main

import (
	"encoding/json"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/projection"
)

// States that mean something here.
const (
	resolved = "Resolved"
	closed   = "Closed"
)

// types are all that happens to an incident; its stream is the incident, its
// tenant the site. The first is the only one with all fields.
var types = []string{
	"IncidentOpened", "IncidentStateChanged", "IncidentReassigned", "IncidentResolved", "IncidentReopened", "IncidentClosed", "IncidentUpdated",
}

// A Change is what the handlers look at in a payload. The rest of it is merged
// by [merge].
type Change struct {
	// Group is the new one, null where there is none any more, and empty where
	// it did not change.
	Group              json.RawMessage `json:"group"`
	PriorReassignments int64           `json:"prior_reassignments"`
}

// Fields are those of a ticket, under the names that they have in the events.
type Fields struct {
	ModCount    int64     `json:"mod_count"`
	UpdatedBy   string    `json:"updated_by"`
	OpenedAt    time.Time `json:"opened_at"`
	OpenedBy    string    `json:"opened_by"`
	Caller      string    `json:"caller"`
	ContactType string    `json:"contact_type"`
	State       string    `json:"state"`
	Group       string    `json:"group"`
	Assignee    string    `json:"assignee"`
	Priority    int64     `json:"priority"`
	Impact      int64     `json:"impact"`
	Urgency     int64     `json:"urgency"`
	Category    string    `json:"category"`
	Subcategory string    `json:"subcategory"`
	Symptom     string    `json:"symptom"`
	Location    string    `json:"location"`
	MadeSLA     bool      `json:"made_sla"`
	Knowledge   bool      `json:"knowledge"`
	Confirmed   bool      `json:"priority_confirmed"`
	Problem     string    `json:"problem"`
	Change      string    `json:"change"`
	Vendor      string    `json:"vendor"`
	ClosedCode  string    `json:"closed_code"`
}

// merge applies what changed: decoding into what is there leaves alone what the
// payload does not name, and empties what it says is null.
func (f *Fields) merge(payload []byte) error { return projection.JSON{}.Decode(payload, f) }

// Counters are those of the service level.
type Counters struct {
	Reassignments int64 `json:"reassignments"`
	Reopens       int64 `json:"reopens"`
}

func (c *Counters) count(e fairlead.Event[Change]) {
	switch {
	case e.Version == 1:
		c.Reassignments = e.Data.PriorReassignments
	case len(e.Data.Group) > 0:
		c.Reassignments++
	}
	if e.Type == "IncidentReopened" {
		c.Reopens++
	}
}

// An Incident is the last state of a ticket.
type Incident struct {
	Fields     Fields    `json:"fields"`
	ResolvedAt time.Time `json:"resolved_at,omitzero"` // of the last event after which it was resolved
	LastAt     time.Time `json:"last_at"`
	Counters   `json:"counters"`
}

// Active reports whether work on the ticket may still come.
func (i *Incident) Active() bool { return i.Fields.State != closed }

var incidents = onEach("incidents", func(i *Incident, e fairlead.Event[Change]) error {
	if err := i.Fields.merge(e.Event.Data); err != nil {
		return err
	}
	i.count(e)
	i.LastAt = e.OccurredAt
	if i.Fields.State == resolved {
		i.ResolvedAt = e.OccurredAt
	}
	return nil
})

// A History is what the counters were after each event.
type History struct {
	Steps []Step `json:"steps"`
}

// A Step is the counters after one event.
type Step struct {
	Version  int64  `json:"version"`
	State    string `json:"state"`
	Counters `json:"counters"`
}

var histories = onEach("histories", func(h *History, e fairlead.Event[Change]) error {
	var now struct {
		Step
		Fields Fields
	}
	if n := len(h.Steps); n > 0 {
		now.Step = h.Steps[n-1]
	}
	now.Fields.State = now.State
	if err := now.Fields.merge(e.Event.Data); err != nil {
		return err
	}
	now.State, now.Version = now.Fields.State, e.Version
	now.count(e)
	h.Steps = append(h.Steps, now.Step)
	return nil
})

// onEach returns f as the handler of every type.
func onEach[S any](name string, f func(*S, fairlead.Event[Change]) error) *fairlead.Projection[S] {
	var parts []projection.Part[S]
	for _, typ := range types {
		parts = append(parts, fairlead.On(typ, f))
	}
	return fairlead.NewProjection(name, parts...)
}
