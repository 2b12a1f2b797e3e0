package layout_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/kafka/layout"
)

func must(t *testing.T, c layout.Config) *layout.Layout {
	t.Helper()
	l, err := layout.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mixed(t *testing.T) *layout.Layout {
	return must(t, layout.Config{Own: "{tenant}.jobs", Shared: "all.jobs", Dedicated: func(tenant string) bool { return tenant == "big" }})
}

func TestPlace(t *testing.T) {
	own, shared := must(t, layout.Config{Own: "{tenant}.jobs"}), must(t, layout.Config{Shared: "jobs"})
	for _, x := range []struct {
		name        string
		l           *layout.Layout
		tenant, key string
		want        layout.Place
	}{
		{"own", own, "acme", "job-1", layout.Place{Topic: "acme.jobs", Key: "job-1", Hash: "job-1"}},
		{"shared", shared, "acme", "job-1", layout.Place{Topic: "jobs", Key: "acme:job-1", Hash: "acme"}},
		{"key with separator", shared, "acme", "a:b", layout.Place{Topic: "jobs", Key: "acme:a:b", Hash: "acme"}},
		{"no key", shared, "acme", "", layout.Place{Topic: "jobs", Key: "acme:", Hash: "acme"}},
		{"mixed, large", mixed(t), "big", "k", layout.Place{Topic: "big.jobs", Key: "k", Hash: "k"}},
		{"mixed, small", mixed(t), "small", "k", layout.Place{Topic: "all.jobs", Key: "small:k", Hash: "small"}},
	} {
		p, err := x.l.Place(x.tenant, x.key)
		if err != nil || p != x.want {
			t.Errorf("%s: %+v, %v", x.name, p, err)
		}
		if h := x.l.Hash(p.Topic, p.Key); h != p.Hash {
			t.Errorf("%s: hash of %q, want %q", x.name, h, p.Hash)
		}
		tenant, key, err := x.l.Resolve(p.Topic, p.Key)
		if err != nil || tenant != x.tenant || key != x.key {
			t.Errorf("%s: resolved to %q %q, %v", x.name, tenant, key, err)
		}
	}
}

// TestPartition compares with hashes that Kafka's own tests list, UtilsTest.java.
func TestPartition(t *testing.T) {
	for tenant, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		p, err := must(t, layout.Config{Shared: "jobs"}).Place(tenant, "any")
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{1, 3, 12, 27, 1000} {
			if got, want := p.Partition(n), int(hash&0x7fffffff)%n; got != want {
				t.Errorf("%q of %d partitions: %d, want %d", tenant, n, got, want)
			}
		}
	}
}

func TestTenantsRefused(t *testing.T) {
	long := strings.Repeat("x", 248)
	for _, x := range []struct {
		name   string
		c      layout.Config
		tenant string
	}{
		{"separator", layout.Config{Shared: "jobs"}, "a:b"},
		{"own separator", layout.Config{Shared: "jobs", Separator: "::"}, "a::b"},
		{"separator that begins in the tenant", layout.Config{Shared: "jobs", Separator: "::"}, "a:"},
		{"empty", layout.Config{Shared: "jobs"}, ""},
		{"not a topic's letter", layout.Config{Own: "{tenant}.jobs"}, "a b"},
		{"slash", layout.Config{Own: "{tenant}.jobs"}, "../etc"},
		{"too long", layout.Config{Own: "{tenant}.jobs"}, long},
		{"NUL", layout.Config{Shared: "jobs"}, "a\x00b"},
		{"the shared topic", layout.Config{Own: "{tenant}.jobs", Shared: "all.jobs", Dedicated: func(string) bool { return false }}, "all"},
	} {
		l := must(t, x.c)
		if _, err := l.Place(x.tenant, "k"); !errors.Is(err, layout.ErrTenant) {
			t.Errorf("%s: %v", x.name, err)
		}
	}
}

func TestResolve(t *testing.T) {
	shared := layout.Config{Shared: "jobs"}
	whole := layout.Config{Shared: "jobs", WholeKey: true}
	for _, x := range []struct {
		name, topic, key string
		c                layout.Config
		tenant, rest     string
		err              error
	}{
		{"no separator", "jobs", "acme", shared, "", "", layout.ErrNoTenant},
		{"no separator, whole key", "jobs", "acme", whole, "acme", "", nil},
		{"no tenant", "jobs", ":key", whole, "", "", layout.ErrNoTenant},
		{"empty key", "jobs", "", whole, "", "", layout.ErrNoTenant},
		{"control character", "jobs", "a\x01:k", shared, "", "", layout.ErrNoTenant},
		{"other topic", "jobs2", "acme:k", shared, "", "", layout.ErrTopic},
		{"internal topic", "__consumer_offsets", "k", layout.Config{Own: "{tenant}.jobs"}, "", "", layout.ErrTopic},
		{"suffix alone", ".jobs", "k", layout.Config{Own: "{tenant}.jobs"}, "", "", layout.ErrTopic},
		{"tenant with the suffix in it", "a.jobs.jobs", "k", layout.Config{Own: "{tenant}.jobs"}, "a.jobs", "k", nil},
		{"prefix", "t-acme", "k", layout.Config{Own: "t-{tenant}"}, "acme", "k", nil},
	} {
		tenant, rest, err := must(t, x.c).Resolve(x.topic, x.key)
		if tenant != x.tenant || rest != x.rest || !errors.Is(err, x.err) {
			t.Errorf("%s: %q %q %v", x.name, tenant, rest, err)
		}
	}
}

func TestConfigsRefused(t *testing.T) {
	for name, c := range map[string]layout.Config{
		"none":            {},
		"no mark":         {Own: "jobs"},
		"two marks":       {Own: "{tenant}.{tenant}.x"},
		"every topic":     {Own: "{tenant}"},
		"illegal":         {Own: "{tenant}/jobs"},
		"illegal shared":  {Shared: "a b"},
		"dots":            {Shared: ".."},
		"mixed, who?":     {Own: "{tenant}.jobs", Shared: "jobs"},
		"shared too long": {Shared: strings.Repeat("x", 250)},
	} {
		if _, err := layout.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzRoundTrip(f *testing.F) {
	f.Add("acme", "job:1", ":")
	f.Add("a:", "b", "::")
	f.Fuzz(func(t *testing.T, tenant, key, sep string) {
		for _, dedicated := range []bool{false, true} {
			l, err := layout.New(layout.Config{Own: "x.{tenant}.y", Shared: "shared", Separator: sep, Dedicated: func(string) bool { return dedicated }})
			if err != nil {
				t.Fatal(err)
			}
			p, err := l.Place(tenant, key)
			if err != nil {
				continue
			}
			if got, rest, err := l.Resolve(p.Topic, p.Key); err != nil || got != tenant || rest != key {
				t.Errorf("%q %q by %q is at %+v, which is %q %q (%v)", tenant, key, sep, p, got, rest, err)
			}
		}
	})
}

// No tenant's name makes a topic of the brokers' own its own: it would be read as the
// tenant's, and deleted with it.
func TestTopicsOfTheBrokers(t *testing.T) {
	l, err := layout.New(layout.Config{Own: "{tenant}_offsets"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CheckTenant("__consumer"); !errors.Is(err, layout.ErrTenant) {
		t.Errorf("CheckTenant = %v, want %v", err, layout.ErrTenant)
	}
	if _, err := l.Place("__consumer", "k"); !errors.Is(err, layout.ErrTenant) {
		t.Errorf("Place = %v, want %v", err, layout.ErrTenant)
	}
	if tenant, ok := l.Has("__consumer_offsets"); ok {
		t.Errorf("__consumer_offsets is %q's", tenant)
	}
	if _, _, err := l.Resolve("__consumer_offsets", "k"); !errors.Is(err, layout.ErrTopic) {
		t.Errorf("Resolve = %v, want %v", err, layout.ErrTopic)
	}
	if _, err := layout.New(layout.Config{Shared: "__transaction_state"}); err == nil {
		t.Error("the brokers' transactions are a shared topic")
	}
}
