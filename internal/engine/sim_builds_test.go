package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// how says how the simulation rebuilds: some builds wait for an operator, some
// leave the one before to be gone back to.
func (s *sim) how() (h lane.How) {
	h.Review = s.rng.IntN(3) == 0
	h.Limit = int64(s.rng.IntN(2) * 100)
	if s.rng.IntN(3) > 0 {
		h.Keep = time.Duration(1+s.rng.IntN(3)) * 10 * time.Second
	}
	return h
}

// operateBuilds does what an operator may do to builds.
func (s *sim) operateBuilds(p string, n int) (what string, err error) {
	ctx := context.Background()
	switch n {
	case 16:
		return "approve", lane.Approve(ctx, s.mem, p)
	case 17, 18:
		return "back", s.back(p)
	}
	switch s.rng.IntN(9) {
	case 0:
		s.checkGiven(p)
		s.checkKept(p)
		return "forget", lane.Forget(ctx, s.mem, p)
	case 1:
		return "limit", lane.Limit(ctx, s.mem, p, int64(s.rng.IntN(1000)))
	case 2, 3:
		return "rebuild what has changed", s.changed(p)
	case 4:
		row := s.row(p)
		version := s.version()
		err := lane.Claim(ctx, s.mem, p, row.Rebuild, version)
		if row.Rebuild != 0 && s.row(p).Builds.Making.Claimed && !row.Builds.Making.Claimed {
			s.made[p+"/"+version] = true
		}
		return "claim", err
	}
	s.checkGiven(p)
	s.checkKept(p)
	return "forget what is old", lane.ForgetOld(ctx, s.mem, p)
}

// simVersions are those of programs, old and new, that run beside each other. The
// documents are first made by the one without.
var simVersions = []string{"", "v1", "v2", "v3"}

// version returns that of some program. Where real engines are at work all have
// the same.
func (s *sim) version() string {
	if s.engines {
		return ""
	}
	return simVersions[s.rng.IntN(len(simVersions))]
}

// changed is what a program of some version does that finds the documents to be
// of another one. A version that was live, or being made, begins no rebuild.
func (s *sim) changed(p string) error {
	version := s.version()
	before := s.row(p)
	s.checkGiven(p)
	began, err := lane.RebuildChanged(context.Background(), s.mem, p, version, s.how())
	if !began {
		return err
	}
	after := s.row(p)
	switch {
	case version == before.Version || version == "" || s.made[p+"/"+version]:
		s.fail("%s: a program of version %q began a rebuild, and its version was there before", p, version)
	case before.Rebuild != 0 && !before.Builds.Making.Auto:
		s.fail("%s: a rebuild began by itself in the place of one of an operator", p)
	case after.Live != before.Live || after.Rebuild == before.Rebuild || after.Builds.Making.Version != version:
		s.fail("%s: a rebuild of version %q began, and the row is %+v", p, version, after)
	}
	s.made[p+"/"+version] = true
	s.keep(p)
	return err
}

func (s *sim) back(p string) error {
	s.checkGiven(p)
	s.checkKept(p)
	err := lane.Back(context.Background(), s.mem, p, s.how())
	if err == nil {
		delete(s.kept, p)
	}
	return err
}

func (s *sim) cancel(p string) error {
	s.checkGiven(p)
	err := lane.CancelRebuild(context.Background(), s.mem, p)
	if err == nil {
		s.keep(p)
	}
	return err
}

// row returns the row of a processor.
func (s *sim) row(p string) (row store.Processor) {
	_ = s.mem.View(context.Background(), func(tx store.Tx) (err error) { row, err = tx.Processor(p); return err })
	return row
}

// builds returns the numbers of the builds that there are of a processor.
func (s *sim) builds(p string) map[int64]bool {
	row := s.row(p)
	return map[int64]bool{row.Live: true, row.Rebuild: true, row.Builds.Kept.Number: true}
}

func (s *sim) lettersOf(b store.Build) (all []store.DeadLetter) {
	_ = s.mem.View(context.Background(), func(tx store.Tx) (err error) {
		all, err = tx.Letters(store.LetterFilter{Build: b})
		return err
	})
	return all
}

// switched checks a switch, of which before is the processor's row.
func (s *sim) switched(before *store.Processor) {
	p, m := before.Name, before.Builds.Making
	if m.Review {
		s.fail("%s: build %d became live, and waited for an operator", p, before.Rebuild)
	}
	k, was := s.row(p).Builds.Kept, before.Builds.Kept
	replaced := m.Keep > 0 && (before.RebuildTenant == "" || was.Number == 0 || was.Tenant != "")
	switch {
	case replaced && (k.Number == 0 || k.Number == was.Number || k.Tenant != before.RebuildTenant):
		s.fail("%s: a switch was to keep the build before, and %+v is kept", p, k)
	case !replaced && k != was:
		s.fail("%s: a switch was to keep nothing, and %+v is kept", p, k)
	}
	for id, g := range s.given {
		if g.Processor == p && g.Number == before.Live && !replaced && (before.RebuildTenant == "" || before.RebuildTenant == g.tenant) {
			delete(s.given, id) // they went with the old documents
		}
	}
	if replaced && before.RebuildTenant == "" && k.Number != before.Live {
		s.fail("%s: build %d is kept, and build %d was live", p, k.Number, before.Live)
	}
	s.checkGiven(p)
	s.keep(p)
}

// A simKept is a build that is kept, as it was when it was left.
type simKept struct {
	number int64
	text   string
}

// keep remembers the build that is kept now.
func (s *sim) keep(p string) {
	k := s.row(p).Builds.Kept.Number
	switch {
	case k == 0:
		delete(s.kept, p)
	case s.kept[p].number != k:
		s.kept[p] = simKept{k, s.dump(store.Build{Processor: p, Number: k})}
	}
}

// checkKept checks that a build is kept as it was.
func (s *sim) checkKept(p string) {
	k := s.row(p).Builds.Kept.Number
	if was := s.kept[p]; k != 0 && was.number == k {
		if now := s.dump(store.Build{Processor: p, Number: k}); now != was.text {
			s.fail("%s: build %d is kept, and somebody has worked it.\nIt was\n%s\nand is\n%s", p, k, was.text, now)
		}
	}
	s.keep(p)
}

// dump returns all of a build as text.
func (s *sim) dump(b store.Build) string {
	var out strings.Builder
	lanes := []store.Lane{}
	_ = s.mem.View(context.Background(), func(tx store.Tx) (err error) { lanes, err = tx.Lanes(b.Processor); return err })
	for _, l := range lanes {
		if l.Build == b {
			fmt.Fprintf(&out, "%v at %v epoch %d owner %q exclusions %v %s\n", l.LaneID, l.Position, l.Epoch, l.Owner, l.Exclusions, l.Done)
		}
	}
	docs, err := s.mem.ListBuild(context.Background(), b, store.Key{}, 1000)
	for _, d := range docs {
		fmt.Fprintf(&out, "%v at %v: %s\n", d.Key, d.Position, d.Data)
	}
	for _, d := range s.lettersOf(b) {
		fmt.Fprintf(&out, "letter %d %s of %s\n", d.ID, d.State, d.Event.ID)
	}
	fmt.Fprintln(&out, err)
	return out.String()
}
