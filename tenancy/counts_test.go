package tenancy

import (
	"fmt"
	"slices"
	"testing"
)

func TestCounts(t *testing.T) {
	var c Counts
	for _, v := range []Verdict{
		{Action: Process, Rule: RuleProduction, Class: Production},
		{Action: Process, Rule: RuleProduction, Class: Production},
		{Action: SkipWhileAlive, Rule: RuleRoute, Class: Test},
		{Action: SkipUnowned, Rule: RuleRoute, Class: Test},
		{Action: Skip, Rule: RuleNotAllowed, Class: Test},       // a baseline with a static list
		{Action: Skip, Rule: RuleProduction, Class: Production}, // a sandbox: the baseline's
		{Action: Process, Rule: RuleStatic, Class: Test},
		{Action: Shadow, Rule: RuleNoRouting, Class: Production},
	} {
		c.Add(&v)
	}
	var got []string
	c.Each(func(class Class, r Rule, a Action, n int64) {
		got = append(got, fmt.Sprintf("%v %v %v %d", class, r, a, n))
	})
	if len(got) != 7 || !slices.Contains(got, "production production process 2") {
		t.Errorf("%q", got)
	}
	if n := c.Unowned(); n != 3 {
		t.Errorf("%d unowned, want 3", n)
	}
	if n := c.Shared(); n != 2 {
		t.Errorf("%d shared, want 2", n)
	}
}
