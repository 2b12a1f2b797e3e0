package kafka

import (
	"errors"
	"fmt"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Routed are the counts of what the log's router has decided, since it was opened.
func (l *Log) Routed() (environment tenancy.Environment, counts *tenancy.Counts, ok bool) {
	if l.cfg.Router == nil {
		return 0, nil, false
	}
	return l.cfg.Router.Environment(), &l.routed, true
}

// judge says what becomes of a record by its headers.
func (l *Log) judge(r *kgo.Record) tenancy.Verdict {
	c := tenancy.Read(l.cfg.Router.Names(), r.Headers)
	if len(c.Tenant) == 0 && c.Fault == tenancy.NoFault { // it may be in the key, or in another header: classes go by tenants too
		c.Tenant = []byte(l.fallback.outline(r).Tenant)
	}
	return l.cfg.Router.Judge(c)
}

// route reports whether the i-th record of a chunk is this consumer's, and why it is
// to be parked, or left to a sandbox.
func (l *Log) route(c *chunk, i int) (taken bool, fault error) {
	if l.cfg.Router == nil {
		return true, nil
	}
	var v tenancy.Verdict
	if c.verdicts == nil {
		v = l.judge(c.records[i])
	} else {
		v = c.verdicts[i]
		reserved, fault := l.owned(c, c.records[i], &v)
		if reserved {
			l.routed.Add(&v)
			return true, &event.Reserved{Host: string(v.Host)}
		}
		if fault != nil {
			l.routed.Add(&v)
			return true, fault
		}
	}
	l.routed.Add(&v)
	switch v.Action {
	case tenancy.Process, tenancy.Shadow:
		return true, nil
	case tenancy.Park:
		return true, parked(&v)
	}
	return false, nil
}

// parked says why nobody may process an event as it is, and what to do.
func parked(v *tenancy.Verdict) error {
	switch v.Rule {
	case tenancy.RuleInconsistent:
		if v.Err != nil {
			return fmt.Errorf("its headers cannot be relied on (%v): %w: mend its producer, then skip it or retry it", v.Fault, v.Err)
		}
		return fmt.Errorf("its headers cannot be relied on (%v): mend its producer, then skip it or retry it", v.Fault)
	case tenancy.RuleUnknown:
		return errors.New("its class is neither production's nor one of tests: declare it in testClasses, or skip the event")
	case tenancy.RuleLost:
		return errors.New("it has a route and no class, as a test event whose headers were cut on their way: skip it, or mend its producer")
	}
	return fmt.Errorf("parked by the rule %v", v.Rule)
}
