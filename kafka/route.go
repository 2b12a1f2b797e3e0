package kafka

import (
	"errors"
	"fmt"

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

// route reports whether a record is this consumer's, and why it is to be parked.
func (l *Log) route(r *kgo.Record) (taken bool, fault error) {
	if l.cfg.Router == nil {
		return true, nil
	}
	c := tenancy.Read(l.cfg.Router.Names(), r.Headers)
	if len(c.Tenant) == 0 && c.Fault == tenancy.NoFault { // it may be in the key, or in another header: classes go by tenants too
		c.Tenant = []byte(l.fallback.outline(r).Tenant)
	}
	v := l.cfg.Router.Judge(c)
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
