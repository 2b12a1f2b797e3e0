package tenancy

import "sync/atomic"

// Counts are how many events a consumer has decided on, by class, rule and action.
// An event that is read again is counted again. The zero value is ready to use, by
// many goroutines at once.
type Counts struct {
	n [numClasses][rules][numActions]atomic.Int64
}

// Add counts a verdict.
func (c *Counts) Add(v *Verdict) { c.n[v.Class][v.Rule][v.Action].Add(1) }

// Each calls f for each combination that was counted.
func (c *Counts) Each(f func(Class, Rule, Action, int64)) {
	for class := range c.n {
		for rule := range c.n[class] {
			for action := range c.n[class][rule] {
				if n := c.n[class][rule][action].Load(); n > 0 {
					f(Class(class), Rule(rule), Action(action), n)
				}
			}
		}
	}
}

// Unowned are events that this consumer left to a sandbox which may not be there, or
// which no sandbox takes: nobody may have processed them.
func (c *Counts) Unowned() (n int64) {
	c.Each(func(class Class, r Rule, a Action, m int64) {
		if a == SkipWhileAlive || a == SkipUnowned || a == Skip && class == Test && r == RuleNotAllowed {
			n += m
		}
	})
	return n
}

// Shared are events that every sandbox with these rules takes, so that several may
// have processed them.
func (c *Counts) Shared() (n int64) {
	c.Each(func(_ Class, r Rule, a Action, m int64) {
		if r == RuleStatic && a == Process || a == Shadow {
			n += m
		}
	})
	return n
}
