package forward_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/tenancy"
)

func read(t *testing.T, e event.Event) (tenancy.Context, map[string]string) {
	t.Helper()
	hs, err := forward.Headers(&e, "processor/id", tenancy.Names{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, h := range hs {
		if _, twice := all[h.Key]; twice {
			t.Errorf("header %q is there twice", h.Key)
		}
		all[h.Key] = string(h.Value)
	}
	names := tenancy.Presets["fairlead"]
	return tenancy.Read(&names, hs), all
}

func TestHeaders(t *testing.T) {
	at := time.Date(2026, 2, 3, 4, 5, 6, 7000, time.FixedZone("x", 3600))
	c, all := read(t, event.Event{
		ID: "e1", Tenant: "acme", Stream: "cart-1", Version: 3, Type: "Paid", OccurredAt: at,
		Metadata: event.Metadata{"traceparent": "t", "type": "forged", "id": "forged", "fairlead-tenant": "other", "fairlead-class": "test", "baggage": "fairlead-class=test,user=1"},
	})
	want := map[string]string{"id": "e1", "type": "Paid", "stream": "cart-1", "version": "3", "occurred": "2026-02-03T03:05:06.000007Z", "traceparent": "t", "fairlead-tenant": "acme", "fairlead-class": "test"}
	for k, v := range want {
		if all[k] != v {
			t.Errorf("header %s is %q, want %q", k, all[k], v)
		}
	}
	if c.Fault != tenancy.NoFault || string(c.Tenant) != "acme" || string(c.Class) != "test" {
		t.Errorf("%+v is read from %v", c, all)
	}
	if !strings.Contains(all["baggage"], "user=1") || strings.Contains(all["baggage"], "other") {
		t.Errorf("the baggage is %q", all["baggage"])
	}
	if _, all := read(t, event.Event{Tenant: "acme", Stream: "s", Type: "T"}); all["id"] != "processor/id" {
		t.Errorf("without an id: %v", all)
	} else if _, ok := all["version"]; ok {
		t.Errorf("without a version: %v", all)
	}
}

// TestHeadersWithAFault stay as they came, so that consumers park the message.
func TestHeadersWithAFault(t *testing.T) {
	c, _ := read(t, event.Event{Tenant: "acme", Stream: "s", Type: "T", Metadata: event.Metadata{"fairlead-class": "test", "baggage": "fairlead-class=prod"}})
	if c.Fault != tenancy.Contradiction {
		t.Errorf("fault %v", c.Fault)
	}
}

func TestRefused(t *testing.T) {
	why := errors.New("too large")
	err := forward.Refused(&event.Event{Tenant: "acme", Stream: "s", Position: 7}, why)
	if !errors.Is(err, forward.ErrRefused) || !errors.Is(err, why) || !strings.Contains(err.Error(), "position 7 of stream \"s\" of tenant \"acme\"") {
		t.Error(err)
	}
}
