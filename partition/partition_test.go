package partition

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// The answers of apache/kafka's UtilsTest.
var murmurAnswers = []struct {
	key  string
	want int32
}{
	{"21", -973932308},
	{"foobar", -790332482},
	{"a-little-bit-long-string", -985981536},
	{"a-little-bit-longer-string", -1486304829},
	{"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
	{"abc", 479470107},
}

func TestMurmur2(t *testing.T) {
	for _, c := range murmurAnswers {
		if got := Murmur2([]byte(c.key)); got != c.want {
			t.Errorf("Murmur2(%q) = %d, want %d", c.key, got, c.want)
		}
	}
}

func TestToPositive(t *testing.T) {
	for in, want := range map[int32]int32{0: 0, 1: 1, -1: 0x7fffffff, -0x80000000: 0, -973932308: 1173551340} {
		if got := ToPositive(in); got != want {
			t.Errorf("ToPositive(%d) = %d, want %d", in, got, want)
		}
	}
}

func TestKafka(t *testing.T) {
	for _, c := range []struct {
		key  string
		n    int
		want int
	}{
		{"21", 1, 0},
		{"21", 10, 0},     // 1,173,551,340
		{"foobar", 10, 6}, // 1,357,151,166
		{"abc", 10, 7},    // 479,470,107
		{"abc", 479470108, 479470107},
	} {
		if got := Kafka([]byte(c.key), c.n); got != c.want {
			t.Errorf("Kafka(%q, %d) = %d, want %d", c.key, c.n, got, c.want)
		}
	}
}

// These answers are stored in users' databases. If this test fails the code is
// wrong, never the test. The hashes of "" and "a" are XXH64's published ones.
func TestBucketNeverChanges(t *testing.T) {
	for _, c := range []struct {
		key  string
		n    int
		want int
	}{
		{"", 1, 0},
		{"", 1 << 30, 0x11d8e999},  // XXH64 of "" is ef46db3751d8e999
		{"a", 1 << 30, 0x298c6e5b}, // XXH64 of "a" is d24ec4f1a98c6e5b
		{"tenant-1", 64, 22},
		{"tenant-1", 1000, 830},
		{"Ünïcode ☃", 256, 141},
	} {
		if got := Bucket(c.key, c.n); got != c.want {
			t.Errorf("Bucket(%q, %d) = %#x (%d), want %#x", c.key, c.n, got, got, c.want)
		}
	}
}

func TestBucketSplits(t *testing.T) {
	for i := range 10_000 {
		key := fmt.Sprintf("tenant-%d", i)
		for _, n := range []int{1, 3, 8, 64} {
			for _, times := range []int{2, 3, 5} {
				if small, large := Bucket(key, n), Bucket(key, n*times); large%n != small {
					t.Fatalf("%q: bucket %d of %d, but %d of %d", key, small, n, large, n*times)
				}
			}
		}
	}
}

func TestBucketIsEven(t *testing.T) {
	const keys, n = 100_000, 64
	var count [n]int
	for i := range keys {
		count[Bucket(fmt.Sprintf("t%d", i), n)]++
	}
	for b, got := range count {
		// Mean 1,562, standard deviation 39: six of them.
		if got < keys/n-240 || got > keys/n+240 {
			t.Errorf("bucket %d has %d keys, want about %d", b, got, keys/n)
		}
	}
}

func TestKeyPrefix(t *testing.T) {
	for _, c := range []struct {
		name, key, sep, tenant, rest string
		ok                           bool
	}{
		{"plain", "acme:order-1", ":", "acme", "order-1", true},
		{"separator in the rest", "acme:a:b", ":", "acme", "a:b", true},
		{"empty rest", "acme:", ":", "acme", "", true},
		{"none", "order-1", ":", "", "order-1", false},
		{"nothing before it", ":order-1", ":", "", ":order-1", false},
		{"long separator", "acme::a:b", "::", "acme", "a:b", true},
		{"empty key", "", ":", "", "", false},
		{"empty separator", "acme:x", "", "", "acme:x", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			tenant, rest, ok := KeyPrefix(c.key, c.sep)
			if tenant != c.tenant || rest != c.rest || ok != c.ok {
				t.Errorf("KeyPrefix(%q, %q) = %q, %q, %t, want %q, %q, %t",
					c.key, c.sep, tenant, rest, ok, c.tenant, c.rest, c.ok)
			}
		})
	}
}

func TestJoinKey(t *testing.T) {
	if got, err := JoinKey("acme", ":", "a:b"); got != "acme:a:b" || err != nil {
		t.Errorf("JoinKey = %q, %v, want acme:a:b", got, err)
	}
	for _, c := range [][3]string{{"ac:me", ":", "x"}, {"", ":", "x"}, {"acme", "", "x"}, {"a:", "::", "x"}} {
		if got, err := JoinKey(c[0], c[1], c[2]); !errors.Is(err, ErrSeparator) {
			t.Errorf("JoinKey(%q) = %q, %v, want ErrSeparator", c, got, err)
		}
	}
}

func TestPanicsWithoutPartitions(t *testing.T) {
	for name, f := range map[string]func(){
		"Kafka":  func() { Kafka([]byte("a"), 0) },
		"Bucket": func() { Bucket("a", -1) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic, want one")
				}
			}()
			f()
		})
	}
}

func FuzzKeys(f *testing.F) {
	f.Add("acme:order", ":", 12)
	f.Add("", "", 1)
	f.Add(":x", ":", 7)
	f.Fuzz(func(t *testing.T, key, sep string, n int) {
		if n < 1 {
			n = 1 + rand.N(64)
		}
		if p := Kafka([]byte(key), n); p < 0 || p >= n {
			t.Errorf("Kafka(%q, %d) = %d", key, n, p)
		}
		if b := Bucket(key, n); b < 0 || b >= n {
			t.Errorf("Bucket(%q, %d) = %d", key, n, b)
		}
		tenant, rest, ok := KeyPrefix(key, sep)
		if !ok {
			if rest != key || tenant != "" {
				t.Errorf("KeyPrefix(%q, %q) = %q, %q, false", key, sep, tenant, rest)
			}
			return
		}
		if got, err := JoinKey(tenant, sep, rest); err != nil || got != key {
			t.Errorf("JoinKey(%q, %q, %q) = %q, %v, want %q", tenant, sep, rest, got, err, key)
		}
	})
}

func BenchmarkBucket(b *testing.B) {
	n := 0
	for b.Loop() {
		n += Bucket("tenant-000042", 64)
	}
	_ = n
}
