package engine

import (
	"context"
	"slices"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// Which version of a projection's code works a lane.
//
// While a program is being replaced, processes with two versions of a projection
// run beside each other. The lanes of a build in the making are worked by those
// with the version that the build is made with, and by nobody else: it would be
// folded half by old code. The live lanes, and those of one tenant's rebuild,
// which goes into the live build, are worked by those with the version that the
// live build was made with, as long as one of them lives. After that any process
// with the processor works them, because a read model that stands still hurts
// more than one that a compatible change goes on with, which is the usual case.

// versions are the versions of their processors that live members have.
type versions map[string]map[string]bool

// versions returns those of the members of a pool: only these may work its lanes.
func (v *view) versions(pool string) versions {
	all := versions{}
	for _, n := range v.told() {
		if n.Pool != pool || n.Leaving {
			continue
		}
		for _, p := range n.Processors {
			if all[p] == nil {
				all[p] = map[string]bool{}
			}
			all[p][n.Versions[p]] = true
		}
	}
	return all
}

// suits reports whether a process with a version of the processor's code is to
// work a lane, of those that can be worked.
func (vs versions) suits(p *store.Processor, l *store.Lane, version string) bool {
	switch {
	case p.Collection == "":
		return true
	case l.Number == p.Rebuild && p.RebuildTenant == "":
		return p.Builds.Making.Claimed && p.Builds.Making.Version == version
	}
	return version == p.Version || !vs[p.Name][p.Version]
}

// claims reports whether a process says that its version makes a build that an
// operator began. Where there are several, it is a new one.
func (vs versions) claims(p *store.Processor, version string) bool {
	if p.Rebuild == 0 || p.RebuildTenant != "" || p.Builds.Making.Claimed {
		return false
	}
	old := func(v string) bool { return v == p.Version || slices.Contains(p.Builds.Seen, v) }
	if !old(version) {
		return true
	}
	for v := range vs[p.Name] {
		if !old(v) {
			return false
		}
	}
	return version == p.Version || !vs[p.Name][p.Version]
}

// begin begins the rebuild of a processor whose code has changed, where it is to
// begin by itself, and says with which version a build is made that has none yet.
// It returns false where the store could not do it.
func (e *Engine) begin(ctx context.Context, a *active, p *store.Processor, vs versions) bool {
	mine := version(a.p)
	switch {
	case a.p.RebuildChanged && lane.Changed(*p, mine):
		began, err := lane.RebuildChanged(ctx, e.store, p.Name, mine, a.p.Rebuild)
		if err != nil {
			if ctx.Err() == nil {
				e.logger.Error("the rebuild of a changed projection did not begin", "processor", p.Name, "version", mine, "error", err)
			}
			return false
		}
		if began {
			e.logger.Info("the projection has changed, and is rebuilt", "processor", p.Name, "from", p.Version, "to", mine)
			e.wake()
		}
	case vs.claims(p, mine):
		if err := lane.Claim(ctx, e.store, p.Name, p.Rebuild, mine); err != nil {
			if ctx.Err() == nil {
				e.logger.Error("the version of a rebuild was not noted", "processor", p.Name, "error", err)
			}
			return false
		}
		e.wake()
	}
	return true
}
