package config_test

import (
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/config"
)

// A ledger beside rules that route nothing, or that leave tests to nobody, is refused.
func TestLedgerNeedsRouting(t *testing.T) {
	for _, tt := range []struct{ keys, says string }{
		{"ledger: x", ""},
		{"ledger: x\n  unowned: park", ""},
		{"ledger: x\n  enableTenantRouting: true\n  allowedConsumerTenancies: [prod, test]", ""},
		{"unowned: park", "set ledger"},
		{"ledger: x\n  routesToken: 0123456789abcdef", ""},
		{"ledger: x\n  routesToken: guess", "can be guessed"},
		{"routesToken: 0123456789abcdef", "set ledger"},
		{"ledger: x\n  headers: signadot", ""},
		{"ledger: x\n  unowned: keep", "takeover, park or drop"},
		{"ledger: x\n  enableTenantRouting: false", "nothing is"},
		{"ledger: x\n  allowedConsumerTenancies: [prod]", "nothing is"},
		{"ledger: x\n  enableTenantRouting: true\n  allowedConsumerTenancies: [prod]", "name both"},
	} {
		text := "kafka:\n  brokers: [b:1]\n  topic: t\nconsumer:\n  groupId: g\n  service: s\n  " + tt.keys + "\n"
		_, err := config.Parse("x.yaml", []byte(text), func(string) (string, bool) { return "", false })
		if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%q: %v, want %q", tt.keys, err, tt.says)
		}
	}
}

// A routing key is looked up by service.
func TestRoutingKeysNeedAService(t *testing.T) {
	for _, tt := range []struct {
		keys string
		ok   bool
	}{{"ledger: x\n  headers: signadot", false}, {"ledger: x\n  service: s\n  headers: signadot", true}, {"headers: signadot", true}} {
		text := "kafka:\n  brokers: [b:1]\n  topic: t\nconsumer:\n  groupId: g\n  " + tt.keys + "\n"
		_, err := config.Parse("x.yaml", []byte(text), func(string) (string, bool) { return "", false })
		if tt.ok != (err == nil) || err != nil && !strings.Contains(err.Error(), "set service") {
			t.Errorf("%q: %v", tt.keys, err)
		}
	}
}
