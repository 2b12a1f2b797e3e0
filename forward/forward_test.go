package forward_test

import (
	"testing"

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
