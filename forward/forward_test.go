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

// TestHeadersSayTheClass: what the log says of an event's class is what its message
// says, in the header and in the baggage of whatever names; where the log says
// nothing the metadata do.
func TestHeadersSayTheClass(t *testing.T) {
	for preset, names := range tenancy.Presets {
		own := names.Class
		if own == "" {
			own = "another"
		}
		for _, tt := range []struct {
			name, class string
			metadata    event.Metadata
			want        string
		}{
			{"none", "", nil, ""},
			{"of the log", "test", nil, "test"},
			{"of the metadata", "", event.Metadata{names.Class: "load", "baggage": names.BaggageClass + "=load"}, "load"},
			{"of both", "test", event.Metadata{names.Class: "load", "baggage": "keep=1," + names.BaggageClass + "=load"}, "test"},
			{"odd", `a=b; "c", {d} é`, nil, `a=b; "c", {d} é`},
		} {
			e := event.Event{Tenant: "acme", Stream: "s", Type: "T", Class: tt.class, Metadata: event.Metadata{"k": "v"}}
			for k, v := range tt.metadata {
				switch k { // of another preset
				case "":
				case "baggage":
					if names.BaggageClass != "" {
						e.Metadata[k] = v
					}
				default:
					e.Metadata[k] = v
				}
			}
			hs, err := forward.Headers(&e, "id", names)
			if err != nil {
				t.Fatalf("%s, %s: %v", preset, tt.name, err)
			}
			c := tenancy.Read(&names, hs)
			if string(c.Class) != tt.want || c.Fault != tenancy.NoFault {
				t.Errorf("%s, class %s: the message says %q (fault %v), want %q: %q", preset, tt.name, c.Class, c.Fault, tt.want, hs)
			}
			headers := 0
			for _, h := range hs {
				if h.Key == own {
					headers++
				}
			}
			if names.Class != "" && tt.want != "" && headers != 1 || headers > 1 {
				t.Errorf("%s, class %s: %d headers %q, want one", preset, tt.name, headers, own)
			}
		}
	}
}

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
