package shard

import (
	"context"
	"testing"
	"testing/synctest"
)

// TestAnsweredIsNotLate: who comes to look between the answer and the end of the call
// would else find both, and take one by chance.
func TestAnsweredIsNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDirectory(nil, func(context.Context, string) (string, error) { return "one", nil }, func(string) {})
		q := d.question(t.Context(), "acme", false)
		<-q.done
		synctest.Wait()
		if len(d.turns) != 0 {
			t.Error("the call has not ended")
		}
		select {
		case <-q.late:
			t.Error("a question that was answered at once is late")
		default:
		}
		hangs := NewDirectory(nil, func(ctx context.Context, _ string) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}, func(string) {})
		<-hangs.question(t.Context(), "acme", false).late
	})
}
