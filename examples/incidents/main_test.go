package main

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/examples/internal/answers"
	"github.com/fairlead-dev/fairlead/projection/projectiontest"
)

// results runs the program on a file of events.
func results(t *testing.T, events string) (incidents, running answers.Table) {
	t.Helper()
	dir := t.TempDir()
	i, r := filepath.Join(dir, "incidents.csv"), filepath.Join(dir, "running.csv")
	if err := job.Run(t.Context(), []string{"-events", events, "-incidents", i, "-running", r}); err != nil {
		t.Fatal(err)
	}
	return answers.Read(t, i), answers.Read(t, r)
}

// some are tenants for a comparison that takes seconds under the race detector
// too.
var some = []string{"location-15", "location-44", "location-165"}

// TestKnownIncidents compares with the counters of the original system. In 91
// incidents that counted a reassignment that no event shows. With the
// race detector and -short it compares some tenants.
func TestKnownIncidents(t *testing.T) {
	dir := answers.Dir(t, "it-incidents")
	if dir == "" {
		return
	}
	events, whole := filepath.Join(dir, "events.jsonl.gz"), true
	want := answers.Read(t, filepath.Join(dir, "expected_incidents.csv.gz"))
	wantRunning := answers.Read(t, filepath.Join(dir, "expected_running.csv.gz"))
	if answers.Race || testing.Short() {
		events, whole = answers.Of(t, events, some), false
		want, wantRunning = want.Of(t, some), wantRunning.Of(t, some)
	}
	incidents, running := results(t, events)
	derivable, reassignments := want.Column(t, "reassignments_derivable"), want.Column(t, "reassignments")
	resolvedAt, stream := want.Column(t, "resolved_at"), want.Column(t, "stream")
	except, unresolved := map[string]bool{}, 0
	for n, row := range want.Rows {
		if n >= len(incidents.Rows) {
			break // Equal says so
		}
		got := incidents.Rows[n]
		if row[derivable] == "0" {
			except[row[stream]] = true
			row[reassignments] = got[reassignments]
		}
		row[derivable] = "" // only the source knows
		if row[resolvedAt] == "" {
			unresolved++
			row[resolvedAt] = got[resolvedAt] // missing in the source
		}
	}
	if whole && (len(except) != 91 || unresolved != 1556) {
		t.Errorf("left out: %d counters and %d times, want 91 and 1,556", len(except), unresolved)
	}
	answers.Equal(t, "incidents", incidents, want)

	want = wantRunning
	reassignments = want.Column(t, "reassignments")
	state, active, contradictions := want.Column(t, "state"), want.Column(t, "active"), 0
	for n, row := range want.Rows {
		if n < len(running.Rows) && except[row[stream]] {
			row[reassignments] = running.Rows[n][reassignments]
		}
		if row[state] != closed && row[active] == "false" {
			contradictions++
			row[active] = "true"
		}
	}
	// Version 5 of incident-0018594 at location-15: Resolved and not active, for that row only.
	if contradictions != 1 {
		t.Errorf("the source says of %d events that an open incident is not active, want 1", contradictions)
	}
	answers.Equal(t, "running counters", running, want)
}

const madeUp = `{"tenant":"hill","stream":"i-2","version":1,"type":"IncidentOpened","occurred_at":"2026-01-02T10:00:00Z","data":{"mod_count":0,"opened_at":"2026-01-02T09:00:00Z","prior_reassignments":2,"state":"New","group":"g1","assignee":"ann","priority":3,"made_sla":true,"category":"7"}}
{"tenant":"dale","stream":"i-1","version":1,"type":"IncidentOpened","occurred_at":"2026-01-02T10:01:00Z","data":{"mod_count":4,"opened_at":"2026-01-02T10:00:00Z","state":"Resolved","priority":1,"made_sla":false}}
{"tenant":"hill","stream":"i-2","version":2,"type":"IncidentReassigned","occurred_at":"2026-01-02T11:00:00Z","data":{"mod_count":1,"group":null,"assignee":null}}
{"tenant":"hill","stream":"i-2","version":3,"type":"IncidentResolved","occurred_at":"2026-01-02T12:00:00Z","data":{"mod_count":3,"state":"Resolved","group":"g2"}}
{"tenant":"hill","stream":"i-2","version":4,"type":"IncidentUpdated","occurred_at":"2026-01-02T13:00:00Z","data":{"mod_count":4,"priority":2}}
{"tenant":"hill","stream":"i-2","version":5,"type":"IncidentReopened","occurred_at":"2026-01-02T14:00:00Z","data":{"mod_count":5,"state":"Active","made_sla":false}}
{"tenant":"hill","stream":"i-2","version":6,"type":"IncidentClosed","occurred_at":"2026-01-02T15:00:00Z","data":{"mod_count":6,"state":"Closed","closed_code":"9"}}
`

func TestMadeUpIncidents(t *testing.T) {
	incidents, running := results(t, answers.File(t, "events.jsonl", madeUp))
	answers.Equal(t, "incidents", incidents, answers.Table{Header: incidents.Header, Rows: [][]string{
		{"dale", "i-1", "1", "4", "Resolved", "true", "0", "", "0", "false", "1", "", "", "", "", "2026-01-02T10:00:00Z", "2026-01-02T10:01:00Z", "2026-01-02T10:01:00Z", ""},
		{"hill", "i-2", "6", "6", "Closed", "false", "4", "", "1", "false", "2", "7", "", "g2", "", "2026-01-02T09:00:00Z", "2026-01-02T13:00:00Z", "2026-01-02T15:00:00Z", "9"},
	}})
	answers.Equal(t, "running counters", running, answers.Table{Header: running.Header, Rows: [][]string{
		{"dale", "i-1", "1", "0", "0", "Resolved", "true"},
		{"hill", "i-2", "1", "2", "0", "New", "true"},
		{"hill", "i-2", "2", "3", "0", "New", "true"},
		{"hill", "i-2", "3", "4", "0", "Resolved", "true"},
		{"hill", "i-2", "4", "4", "0", "Resolved", "true"},
		{"hill", "i-2", "5", "4", "1", "Active", "true"},
		{"hill", "i-2", "6", "4", "1", "Closed", "false"},
	}})
}

func TestMerge(t *testing.T) {
	at := projectiontest.Start
	projectiontest.For(t, incidents).
		Given("hill", "i", "IncidentOpened", []byte(`{"mod_count":1,"state":"New","group":"g","priority":3,"made_sla":true}`)).
		Given("hill", "i", "IncidentUpdated", []byte(`{"mod_count":2,"group":null,"made_sla":false}`)).
		Expect("hill", "i", Incident{Fields: Fields{ModCount: 2, State: "New", Priority: 3}, LastAt: at.Add(time.Second), Counters: Counters{Reassignments: 1}}).
		Given("hill", "i", "IncidentUpdated", []byte(`{"mod_count":"many"}`)).ExpectError("handler")
}
