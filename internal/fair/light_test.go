package fair

import "testing"

// What a flow costs of which nothing is known yet is not known to be little: its first items
// leave as many workers to the others as slow ones do.
func TestLightCapOfUnknownCost(t *testing.T) {
	q := New[int](4)
	q.SetCap(2)
	q.SetLightCap(3)
	q.Push("quiet", 1, 0)
	for range 100 {
		g, ok := q.Pop(epoch)
		if !ok {
			t.Fatal("no turn")
		}
		q.Push("quiet", 1, 0)
		q.Done(g, ms, epoch)
	}
	for i := range 10 {
		q.Push("new", 1, i)
	}
	q.Push("quiet", 1, 0)
	popAll(q)
	if _, got := q.Flow("new"); got != 2 {
		t.Errorf("%d items of a flow whose cost is not known are in flight, want 2", got)
	}
}
