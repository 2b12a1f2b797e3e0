package chaos

import (
	"bufio"
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// said is what a process says of a lane.
type said struct {
	Time  time.Time
	Since time.Time // of its end: when it was told to
	Msg   string
	Lane  string
	Epoch int64
}

// stands returns, in ascending order, for how long lanes stood still that were given
// up from one time to another: from when the owner was told to take no more events to
// when the next one had read the row. Whether there was an event to work does not
// matter. It is by the processes' own words: they are on one machine, and so have one
// clock.
func (f *fleet) stands(t *testing.T, from, to time.Time) (all []time.Duration) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(f.dir, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	lanes := map[string][]said{}
	for _, name := range logs {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			var s said
			if json.Unmarshal(lines.Bytes(), &s) == nil && (s.Msg == "lane begins" || s.Msg == "lane ends") {
				lanes[s.Lane] = append(lanes[s.Lane], s)
			}
		}
		_ = file.Close()
	}
	for _, of := range lanes {
		slices.SortFunc(of, func(a, b said) int { return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), a.Time.Compare(b.Time)) })
		for i := range of {
			if i == 0 || of[i].Msg != "lane begins" || of[i-1].Msg != "lane ends" || of[i-1].Since.Before(from) || of[i-1].Since.After(to) {
				continue
			}
			all = append(all, of[i].Time.Sub(of[i-1].Since))
		}
	}
	slices.Sort(all)
	return all
}
