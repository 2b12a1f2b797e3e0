package done

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
)

func ranges(s *Set) []Range { return slices.Collect(s.All()) }

func TestAddRange(t *testing.T) {
	for _, c := range []struct {
		name string
		add  []Range
		want []Range
	}{
		{"nothing", nil, nil},
		{"one", []Range{{4, 5}}, []Range{{4, 5}}},
		{"in order, joined", []Range{{4, 5}, {5, 6}, {6, 7}}, []Range{{4, 7}}},
		{"in order, apart", []Range{{4, 5}, {7, 8}}, []Range{{4, 5}, {7, 8}}},
		{"before", []Range{{7, 8}, {4, 5}}, []Range{{4, 5}, {7, 8}}},
		{"touches the next", []Range{{7, 8}, {4, 7}}, []Range{{4, 8}}},
		{"closes a hole", []Range{{4, 5}, {6, 7}, {5, 6}}, []Range{{4, 7}}},
		{"covers several", []Range{{4, 5}, {6, 7}, {8, 9}, {20, 21}, {3, 10}}, []Range{{3, 10}, {20, 21}}},
		{"inside", []Range{{1, 10}, {20, 21}, {3, 5}}, []Range{{1, 10}, {20, 21}}},
		{"overlaps two", []Range{{1, 10}, {12, 20}, {5, 15}}, []Range{{1, 20}}},
		{"twice", []Range{{4, 5}, {4, 5}}, []Range{{4, 5}}},
		{"empty", []Range{{4, 4}, {5, 4}}, nil},
		{"below one", []Range{{-5, 0}, {-5, 2}}, []Range{{0, 2}}},
		{"the very last", []Range{{event.Unbounded - 1, event.Unbounded}}, []Range{{event.Unbounded - 1, event.Unbounded}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s Set
			for _, r := range c.add {
				s.AddRange(r.From, r.To)
			}
			if got := ranges(&s); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// Ranges that are added at once are those that are added one by one.
func TestAddAll(t *testing.T) {
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var one, all Set
		for range 3 {
			added := make([]Range, rng.IntN(20))
			for i := range added {
				from := event.Position(rng.IntN(120) - 10)
				added[i] = Range{from, from + event.Position(rng.IntN(6)-1)}
			}
			for _, r := range added {
				one.AddRange(r.From, r.To)
			}
			before := slices.Clone(added)
			all.AddAll(added)
			if got, want := ranges(&all), ranges(&one); !slices.Equal(got, want) {
				t.Fatalf("seed %d: AddAll(%v) = %v, want %v", seed, before, got, want)
			}
		}
	}
	var s Set
	s.AddAll([]Range{{event.Unbounded, -1 << 63}, {-1 << 63, -1 << 63}, {event.Unbounded - 1, event.Unbounded}})
	if got := ranges(&s); !slices.Equal(got, []Range{{event.Unbounded - 1, event.Unbounded}}) {
		t.Errorf("at the ends: %v", got)
	}
}

func TestForget(t *testing.T) {
	for _, c := range []struct {
		name string
		p    event.Position
		want []Range
	}{
		{"nothing", 4, []Range{{5, 9}, {11, 12}}},
		{"up to the first", 5, []Range{{5, 9}, {11, 12}}},
		{"part of a run", 7, []Range{{7, 9}, {11, 12}}},
		{"a whole run", 9, []Range{{11, 12}}},
		{"into a hole", 10, []Range{{11, 12}}},
		{"all", 12, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s Set
			s.AddRange(5, 9)
			s.AddRange(11, 12)
			after := s.MarshalAfter(c.p)
			s.Forget(c.p)
			if got := ranges(&s); !slices.Equal(got, c.want) {
				t.Errorf("Forget(%v) leaves %v, want %v", c.p, got, c.want)
			}
			if b, _ := s.MarshalBinary(); !bytes.Equal(b, after) {
				t.Errorf("MarshalAfter(%v) = %x, want %x", c.p, after, b)
			}
		})
	}
}

func TestForgetGivesMemoryBack(t *testing.T) {
	var s Set
	for p := event.Position(1); p <= 20_000; p += 2 {
		s.Add(p)
	}
	s.Forget(19_900)
	if got := s.Len(); got != 50 || cap(s.runs) > 1024 {
		t.Errorf("%d runs in the memory of %d", got, cap(s.runs))
	}
}

func TestAddOfNoEvent(t *testing.T) {
	var s Set
	for _, p := range []event.Position{0, -1, -1 << 63} {
		s.Add(p)
		if s.Len() != 0 || s.Contains(p) {
			t.Errorf("Add(%d): %v, want nothing", p, ranges(&s))
		}
	}
}

func TestAdvance(t *testing.T) {
	for _, c := range []struct {
		name    string
		runs    []Range
		low     event.Position
		wantLow event.Position
		want    []Range
	}{
		{"empty", nil, 7, 7, nil},
		{"hole", []Range{{8, 9}}, 7, 7, []Range{{8, 9}}},
		{"next", []Range{{7, 9}, {10, 12}}, 7, 9, []Range{{10, 12}}},
		{"below", []Range{{1, 2}, {3, 4}, {9, 10}}, 7, 7, []Range{{9, 10}}},
		{"inside", []Range{{5, 9}, {11, 12}}, 7, 9, []Range{{11, 12}}},
		{"past all", []Range{{5, 9}, {11, 12}}, 100, 100, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s Set
			for _, r := range c.runs {
				s.AddRange(r.From, r.To)
			}
			if got := s.Advance(c.low); got != c.wantLow || !slices.Equal(ranges(&s), c.want) {
				t.Errorf("Advance(%v) = %v leaving %v, want %v leaving %v", c.low, got, ranges(&s), c.wantLow, c.want)
			}
		})
	}
}

// Whatever the order in which events finish, the watermark ends at the last one
// and nothing is left over.
func TestAnyOrderEndsAtTheLast(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		n := 1 + rng.IntN(300)
		var s Set
		var low event.Position
		for _, i := range rng.Perm(n) {
			s.Add(event.Position(i + 1))
			if rng.IntN(4) == 0 {
				low = s.Advance(low)
			}
		}
		if low = s.Advance(low); low != event.Position(n) || s.Len() != 0 {
			t.Fatalf("seed %d: low %v with %d runs left, want %d with none", seed, low, s.Len(), n)
		}
	}
}

func TestMarshalIsSmall(t *testing.T) {
	var s Set
	if b, err := s.MarshalBinary(); b != nil || err != nil {
		t.Errorf("empty set: %v, %v, want nil, nil", b, err)
	}
	const base = 541_909
	for p := event.Position(base); p < base+2000; p += 2 {
		s.Add(p)
	}
	b, _ := s.MarshalBinary()
	if want := 1 + 3 + 1 + 999*2; len(b) != want {
		t.Errorf("1,000 runs of one take %d bytes, want %d", len(b), want)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f} // 2^63-1
	for _, c := range []struct {
		name string
		b    []byte
	}{
		{"other format", []byte{2, 1, 1}},
		{"no runs", []byte{1}},
		{"no length", []byte{1, 4}},
		{"length zero", []byte{1, 4, 0}},
		{"runs that touch", []byte{1, 4, 1, 0, 1}},
		{"cut varint", []byte{1, 0x80}},
		{"cut second varint", []byte{1, 4, 0x80}},
		{"long form of a number", []byte{1, 0x84, 0x00, 1}},
		{"varint over 64 bits", append([]byte{1}, bytes.Repeat([]byte{0xff}, 11)...)},
		{"begins at the end", append(append([]byte{1}, huge...), 1)},
		{"ends beyond the end", append([]byte{1, 2}, huge...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s Set
			s.Add(3)
			if err := s.UnmarshalBinary(c.b); !errors.Is(err, ErrFormat) {
				t.Errorf("error %v, want ErrFormat", err)
			}
			if got := ranges(&s); !slices.Equal(got, []Range{{2, 3}}) {
				t.Errorf("the set became %v", got)
			}
		})
	}
}

func TestUnmarshalNothingEmpties(t *testing.T) {
	var s Set
	s.Add(3)
	if err := s.UnmarshalBinary(nil); err != nil || s.Len() != 0 {
		t.Errorf("%v with %d runs, want an empty set", err, s.Len())
	}
}

func TestCloneSharesNothing(t *testing.T) {
	var s Set
	s.AddRange(0, 5)
	c := s.Clone()
	s.AddRange(5, 9)
	if got := c.Last(); got != 5 {
		t.Errorf("clone ends at %v, want 5", got)
	}
}

// FuzzSet drives a Set and a map with the same operations, then stores and
// restores it.
func FuzzSet(f *testing.F) {
	f.Add([]byte{0, 5, 0, 1, 7, 3, 0, 6, 2, 5})
	f.Add([]byte{1, 0, 9, 1, 20, 3, 1, 8, 13})
	f.Add([]byte{1, 10, 9, 3, 20, 3, 4, 12, 0, 3, 40, 15})
	f.Fuzz(func(t *testing.T, ops []byte) {
		var s Set
		model := map[event.Position]bool{}
		var low event.Position
		for len(ops) >= 3 {
			p, n := event.Position(ops[1]), event.Position(ops[2]%16)
			switch ops[0] % 5 {
			case 0:
				s.Add(p)
				model[p] = true
			case 1:
				s.AddRange(p, p+n)
				for q := p + 1; q <= p+n; q++ {
					model[q] = true
				}
			case 2:
				want := max(low, p)
				for model[want+1] {
					want++
				}
				if low = s.Advance(max(low, p)); low != want {
					t.Fatalf("Advance(%v) = %v, want %v", p, low, want)
				}
				maps.DeleteFunc(model, func(q event.Position, _ bool) bool { return q <= low })
			case 3:
				s.AddAll([]Range{{p, p + n}, {p / 2, p / 2}, {p / 2, p/2 + 3}})
				for q := range n {
					model[p+q+1] = true
				}
				for q := range event.Position(3) {
					model[p/2+q+1] = true
				}
			case 4:
				s.Forget(p)
				maps.DeleteFunc(model, func(q event.Position, _ bool) bool { return q <= p })
			}
			delete(model, 0)
			ops = ops[3:]
		}
		check := func(s *Set) {
			for p := event.Position(-1); p < 300; p++ {
				if got, want := s.Contains(p), model[p]; got != want {
					t.Fatalf("Contains(%v) = %t, want %t in %v", p, got, want, ranges(s))
				}
			}
			last := event.Position(-1)
			for r := range s.All() {
				if r.From <= last || r.To <= r.From {
					t.Fatalf("runs %v are not sorted and apart", ranges(s))
				}
				last = r.To
			}
		}
		check(&s)
		b, _ := s.MarshalBinary()
		var back Set
		if err := back.UnmarshalBinary(b); err != nil {
			t.Fatalf("restore %x: %v", b, err)
		}
		check(&back)
	})
}

// FuzzUnmarshal: garbage gives an error, and what gives none is the one form of
// its set.
func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte{1, 4, 1, 2, 9})
	f.Add([]byte{1, 0xff, 0xff, 0x03, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Set
		if err := s.UnmarshalBinary(b); err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("error %v is no ErrFormat", err)
			}
			return
		}
		if back, _ := s.MarshalBinary(); !bytes.Equal(back, b) {
			t.Errorf("%x came back as %x", b, back)
		}
	})
}

func BenchmarkSetOutOfOrder(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	order := make([]event.Position, 4096)
	for i := range order {
		order[i] = event.Position(i + 1)
	}
	for i := 0; i < len(order); i += 64 { // 64 in flight
		rng.Shuffle(64, func(a, b int) { order[i+a], order[i+b] = order[i+b], order[i+a] })
	}
	var s Set
	b.ReportAllocs()
	for b.Loop() {
		var low event.Position
		for _, p := range order {
			s.Add(p)
			low = s.Advance(low)
		}
	}
	b.ReportMetric(float64(b.N*len(order))/b.Elapsed().Seconds(), "events/s")
}
