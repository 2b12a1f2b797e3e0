package cli_test

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestPlan(t *testing.T) {
	args := []string{"plan", "--tenants", "100", "--brokers", "60", "--broker-size", "4xlarge"}
	for _, says := range []string{"3 topics x 3 partitions x 3 copies", "= 27", "60 brokers x 4000 partitions / 27", "= 8888", "Recommended: topic per tenant"} {
		if out := ok(t, args...); !strings.Contains(out, says) {
			t.Errorf("no %q in\n%s", says, out)
		}
	}
	var planned struct {
		Recommended string
		Options     []struct{ Replicas int }
	}
	if err := json.Unmarshal([]byte(ok(t, append(args, "--json")...)), &planned); err != nil {
		t.Fatal(err)
	}
	if planned.Recommended != "topic per tenant" || len(planned.Options) != 2 || planned.Options[0].Replicas != 2700 {
		t.Errorf("%+v", planned)
	}
}
