package ops_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/ops"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/fairlead-dev/fairlead/store/memstore"
	"github.com/fairlead-dev/fairlead/tenancy"
)

// A noLedger has no sandboxes, and counts what is written.
type noLedger struct {
	ledger.Ledger
	writes int
}

func (*noLedger) Sandboxes(context.Context, string, string, []string) ([]ledger.Sandbox, error) {
	return nil, nil
}

func (*noLedger) Routes(context.Context) (map[string]map[string]string, error) {
	return map[string]map[string]string{}, nil
}

func (l *noLedger) PutRoute(context.Context, string, map[string]string) error {
	l.writes++
	return nil
}

func (l *noLedger) DeleteRoute(context.Context, string) (bool, error) {
	l.writes++
	return true, nil
}

// Who may change routes over HTTP: with a token who has it, without one who is on the machine.
func TestWhoMayChangeRoutes(t *testing.T) {
	const token = "0123456789abcdef"
	names := tenancy.Presets["fairlead"]
	for _, tt := range []struct {
		name                    string
		token, auth, host, addr string
		status                  int
	}{
		{"loopback", "", "", "127.0.0.1:9464", "127.0.0.1", 200},
		{"loopback by name", "", "", "localhost:9464", "127.0.0.1", 200},
		{"loopback of IPv6", "", "", "[::1]:9464", "::1", 200},
		{"another address", "", "", "10.0.0.7:9464", "10.0.0.7", 403},
		{"another address that claims to be loopback", "", "", "127.0.0.1:9464", "10.0.0.7", 403},
		{"a page whose name leads to loopback", "", "", "evil.example:9464", "127.0.0.1", 403},
		{"no host", "", "", "", "127.0.0.1", 403},
		{"a token that nobody asks for", "", "Bearer " + token, "10.0.0.7:9464", "10.0.0.7", 403},
		{"the token", token, "Bearer " + token, "x", "10.0.0.7", 200},
		{"the token, scheme in small letters", token, "bearer  " + token, "x", "10.0.0.7", 200},
		{"no token, on loopback", token, "", "127.0.0.1", "127.0.0.1", 401},
		{"another token", token, "Bearer " + token[1:], "x", "10.0.0.7", 401},
		{"a longer token", token, "Bearer " + token + "0", "x", "10.0.0.7", 401},
		{"another scheme", token, "Basic " + token, "x", "10.0.0.7", 401},
		{"no scheme", token, token, "x", "10.0.0.7", 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &noLedger{}
			m := &ops.Metrics{
				Admin:  fairlead.Admin{Log: memlog.New(), Store: memstore.New()},
				Routes: &ops.Routes{Ledger: l, Service: "shop", Names: &names, Class: "test", Token: tt.token},
			}
			h := m.Handler()
			do := func(method, path, body string) (int, string) {
				req := httptest.NewRequest(method, path, strings.NewReader(body))
				req.Host = tt.host
				if tt.auth != "" {
					req.Header.Set("Authorization", tt.auth)
				}
				req = req.WithContext(context.WithValue(req.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.ParseIP(tt.addr), Port: 9464})))
				w := httptest.NewRecorder()
				h.ServeHTTP(w, req)
				text, _ := io.ReadAll(w.Result().Body)
				if (w.Result().Header.Get("WWW-Authenticate") != "") != (w.Code == 401) {
					t.Errorf("%s: header WWW-Authenticate with status %d", method, w.Code)
				}
				return w.Code, string(text)
			}
			for _, write := range [][3]string{{"PUT", "/routes/x", `{"shop":"pr-1"}`}, {"DELETE", "/routes/x", ""}} {
				status, body := do(write[0], write[1], write[2])
				if status != tt.status || status != 200 && !strings.Contains(body, "consumer.routesToken") {
					t.Errorf("%s: %d, %s, want %d", write[0], status, body, tt.status)
				}
				if strings.Contains(body, token) {
					t.Errorf("the answer has the token: %s", body)
				}
			}
			if status, body := do("DELETE", "/routes/hosts/pr-1", ""); status != tt.status && (tt.status != 200 || status != 404) {
				t.Errorf("close: %d, %s, want %d", status, body, tt.status)
			}
			if want := map[bool]int{true: 2}[tt.status == 200]; l.writes != want {
				t.Errorf("%d writes, want %d", l.writes, want)
			}
			if status, body := do("GET", "/routes", ""); status != 200 {
				t.Errorf("read: %d, %s", status, body)
			}
		})
	}
}

// With headers that have a routing key, what is sent is the route's name, and a change
// takes effect before it is answered.
func TestRoutesOfKeys(t *testing.T) {
	names := tenancy.Presets["signadot"]
	l, bound := &noLedger{}, []string(nil)
	var failed error
	r := &ops.Routes{Ledger: l, Service: "shop", Names: &names, Class: "test", Bind: func(_ context.Context, names []string) error {
		bound = append(bound, names...)
		return failed
	}}
	n, absent, err := r.Set(t.Context(), "k1", map[string]string{"shop": "pr-1", "mail": "pr-2"})
	if err != nil || len(n.Headers) != 1 || !strings.Contains(n.Headers[0], "sd-routing-key=k1") || !slices.Equal(absent, []string{"pr-1"}) {
		t.Errorf("set: %+v, %q, %v", n, absent, err)
	}
	if err := r.Remove(t.Context(), "k1"); err != nil {
		t.Error(err)
	}
	if !slices.Equal(bound, []string{"k1", "k1"}) {
		t.Errorf("bound: %q", bound)
	}
	failed = errors.New("no leader")
	for _, err := range []error{r.Remove(t.Context(), "k1"), func() error { _, _, err := r.Set(t.Context(), "k1", n.Route); return err }()} {
		if !errors.Is(err, failed) || !strings.Contains(err.Error(), `"k1"`) {
			t.Errorf("not bound: %v", err)
		}
	}
}
