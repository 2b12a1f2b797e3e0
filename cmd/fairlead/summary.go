package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/retail"
)

// A result is the last line of demo --once --json.
type result struct {
	Events      int          `json:"events"`
	Tenants     int          `json:"tenants"`
	Projections []projection `json:"projections"`
	Mismatches  int          `json:"mismatches"`
	Seconds     float64      `json:"seconds"`
	PeakRSS     int64        `json:"peak_rss_bytes"`
	Lags        []lag        `json:"tenant_lag"`

	examples []string
}

type projection struct {
	Name       string    `json:"name"`
	Documents  int       `json:"documents"`
	Mismatches int       `json:"mismatches"`
	Rate       float64   `json:"events_per_second"`
	Freshness  freshness `json:"freshness"`
}

// freshness is from the log to the commit, in seconds.
type freshness struct {
	P50  float64 `json:"p50_seconds"`
	P99  float64 `json:"p99_seconds"`
	Max  float64 `json:"max_seconds"`
	Meet bool    `json:"objective_met"`
}

func (r *result) add(c retail.Comparison, rate float64, st fairlead.Stats) {
	r.Projections = append(r.Projections, projection{
		Name: c.Projection, Documents: c.Documents, Mismatches: c.Mismatches, Rate: rate,
		Freshness: freshness{
			P50: st.Freshness.P50.Seconds(), P99: st.Freshness.P99.Seconds(), Max: st.Freshness.Max.Seconds(),
			Meet: st.Freshness.Met(),
		},
	})
	r.Mismatches += c.Mismatches
	for _, m := range c.Examples {
		r.examples = append(r.examples, c.Projection+": "+m.String())
	}
}

func (d *demo) show(r result) error {
	for _, e := range r.examples {
		fmt.Fprintf(d.env.Stderr, "mismatch: %q\n", e)
	}
	if d.env.JSON {
		return json.NewEncoder(d.env.Stdout).Encode(r)
	}
	w := tabwriter.NewWriter(d.env.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\nPROJECTION\tDOCUMENTS\tEVENTS/S\tP50\tP99\tMAX\tOBJECTIVE\tMISMATCHES\t\n")
	documents := 0
	for _, p := range r.Projections {
		documents += p.Documents
		met := "met"
		if !p.Freshness.Meet {
			met = "missed"
		}
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%v\t%v\t%v\t%s\t%d\t\n", p.Name, p.Documents, p.Rate,
			seconds(p.Freshness.P50), seconds(p.Freshness.P99), seconds(p.Freshness.Max), met, p.Mismatches)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(d.env.Stdout, "\nP50, P99 and MAX are the freshness: from the log to the commit; the objective is %v.\n", objective)

	const shown = 5
	if len(r.Lags) > 0 {
		fmt.Fprintf(w, "\nSHOP\tWORST LAG\tIN\t\n")
		for i, l := range r.Lags {
			if i < shown || i == len(r.Lags)-1 {
				fmt.Fprintf(w, "%s\t%v\t%s\t\n", l.Tenant, seconds(l.Seconds), l.Projection)
			} else if i == shown {
				fmt.Fprintf(w, "%d more\t\t\t\n", len(r.Lags)-shown-1)
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(d.env.Stdout, "\n%d events of %d shops in %.1f s, all %d documents compared: %d mismatches. Peak memory %.0f MiB.\n",
		r.Events, r.Tenants, r.Seconds, documents, r.Mismatches, float64(r.PeakRSS)/(1<<20))
	return err
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond)
}
