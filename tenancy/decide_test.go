package tenancy

import (
	"fmt"
	"strings"
	"testing"
)

// The whole table: a line for each environment, class and route, a column for
// each pair of allowed list and flag. Y process, Y+ process as every sandbox does,
// N skip, N~ skip while the sandbox is alive, N* skip though nobody else takes it,
// Sh shadow, Pk park, E refused when the consumer starts.
const table = `
                          own,-  both,- -,true both,true -,false -,- own,true own,false both,false wrong,- wrong,true wrong,false
prod prod absent            Y      Y      Y      Y      Y      Y      Y      Y      E      E      E      E
prod prod match             Y      Y      Y      Y      Y      Y      Y      Y      E      E      E      E
prod prod mismatch          Y      Y      Y      Y      Y      Y      Y      Y      E      E      E      E
prod prod other-svc         Y      Y      Y      Y      Y      Y      Y      Y      E      E      E      E
prod test absent            N      Y      Y      Y      Y      Y      N      N      E      E      E      E
prod test match             N      E      E      E      Y      E      N      N      E      E      E      E
prod test mismatch          N      N~     N~     N~     Y      N~     N      N      E      E      E      E
prod test other-svc         N      Y      Y      Y      Y      Y      N      N      E      E      E      E
prod absent absent          Y      Y      Y      Y      Y      Y      Y      Y      E      E      E      E
prod absent match           Pk     Pk     Pk     Pk     Y      Pk     Pk     Y      E      E      E      E
prod absent mismatch        Pk     Pk     Pk     Pk     Y      Pk     Pk     Y      E      E      E      E
prod absent other-svc       Pk     Pk     Pk     Pk     Y      Pk     Pk     Y      E      E      E      E
prod unknown absent         Pk     Pk     Pk     Pk     Pk     Pk     Pk     Pk     E      E      E      E
prod unknown match          Pk     Pk     Pk     Pk     Pk     Pk     Pk     Pk     E      E      E      E
prod unknown mismatch       Pk     Pk     Pk     Pk     Pk     Pk     Pk     Pk     E      E      E      E
prod unknown other-svc      Pk     Pk     Pk     Pk     Pk     Pk     Pk     Pk     E      E      E      E
sandbox prod absent         N      N      N      N      Sh     N      N      N      E      E      E      E
sandbox prod match          N      N      N      N      Sh     N      N      N      E      E      E      E
sandbox prod mismatch       N      N      N      N      Sh     N      N      N      E      E      E      E
sandbox prod other-svc      N      N      N      N      Sh     N      N      N      E      E      E      E
sandbox test absent         Y+     N      N      N      N      N      N*     Y+     E      E      E      E
sandbox test match          Y+     Y      Y      Y      Sh     Y      Y      Y+     E      E      E      E
sandbox test mismatch       Y+     N      N      N      N      N      N      Y+     E      E      E      E
sandbox test other-svc      Y+     N      N      N      N      N      N*     Y+     E      E      E      E
sandbox absent absent       N      N      N      N      Sh     N      N      N      E      E      E      E
sandbox absent match        N      N      N      N      Sh     N      N      N      E      E      E      E
sandbox absent mismatch     N      N      N      N      Sh     N      N      N      E      E      E      E
sandbox absent other-svc    N      N      N      N      Sh     N      N      N      E      E      E      E
sandbox unknown absent      N      N      N      N      N      N      N      N      E      E      E      E
sandbox unknown match       N      N      N      N      N      N      N      N      E      E      E      E
sandbox unknown mismatch    N      N      N      N      N      N      N      N      E      E      E      E
sandbox unknown other-svc   N      N      N      N      N      N      N      N      E      E      E      E
`

var (
	envs    = map[string]Environment{"prod": Baseline, "sandbox": Sandbox}
	classes = map[string]Class{"prod": Production, "test": Test, "absent": NoClass, "unknown": UnknownClass}
	targets = map[string]Target{"absent": NoRoute, "match": ForMe, "mismatch": ForOther, "other-svc": OtherService}
	lists   = map[string]List{"own": OwnClass, "both": BothClass, "-": NoList, "wrong": WrongOnly}
	flags   = map[string]Flag{"-": FlagUnset, "true": FlagTrue, "false": FlagFalse}
	cells   = map[string]Action{
		"Y": Process, "Y+": Process, "N": Skip, "N~": SkipWhileAlive, "N*": SkipUnowned, "Sh": Shadow, "Pk": Park, "E": Refuse,
	}
)

func TestDecideIsTheTable(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(table), "\n")
	columns := strings.Fields(lines[0])
	n := 0
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) != 3+len(columns) {
			t.Fatalf("line %q has %d fields", line, len(f))
		}
		for i, column := range columns {
			list, flag, _ := strings.Cut(column, ",")
			want := cells[f[3+i]]
			got, rule := Decide(envs[f[0]], classes[f[1]], targets[f[2]], lists[list], flags[flag])
			if got != want {
				t.Errorf("%s, class %s, route %s, list and flag %s: %v (%v), want %v", f[0], f[1], f[2], column, got, rule, want)
			}
			// Y+ is just the static list.
			if static := rule == RuleStatic; static != (f[3+i] == "Y+") {
				t.Errorf("%s, class %s, route %s, list and flag %s: rule %v for %s", f[0], f[1], f[2], column, rule, f[3+i])
			}
			n++
		}
	}
	if n != 384 {
		t.Errorf("%d cells, want 384", n)
	}
}

// The ten rows of Figure 3 of "Setting Up Kafka Multi-Tenancy", by their numbers.
func TestDecidePublishedRows(t *testing.T) {
	all := []Target{NoRoute, ForMe, ForOther, OtherService}
	for _, row := range []struct {
		n       int
		env     Environment
		list    List
		class   Class
		targets []Target
		want    Action
	}{
		{1, Baseline, OwnClass, Production, all, Process},
		{2, Baseline, OwnClass, Test, all, Skip},
		{3, Sandbox, OwnClass, Production, all, Skip},
		{4, Sandbox, OwnClass, Test, all, Process},
		{5, Baseline, BothClass, Production, all, Process},
		{6, Baseline, BothClass, Test, []Target{NoRoute}, Process},
		{7, Baseline, BothClass, Test, []Target{ForOther}, SkipWhileAlive},
		{8, Sandbox, BothClass, Production, all, Skip},
		{9, Sandbox, BothClass, Test, []Target{ForOther}, Skip},
		{10, Sandbox, BothClass, Test, []Target{ForMe}, Process},
	} {
		t.Run(fmt.Sprintf("row %d", row.n), func(t *testing.T) {
			for _, target := range row.targets {
				if got, rule := Decide(row.env, row.class, target, row.list, FlagUnset); got != row.want {
					t.Errorf("route %v: %v (%v), want %v", target, got, rule, row.want)
				}
			}
		})
	}
}
