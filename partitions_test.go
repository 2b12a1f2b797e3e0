package fairlead_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// TestPartitionsOfTheLog cannot be cut: whoever appends has chosen them.
func TestPartitionsOfTheLog(t *testing.T) {
	a := fairlead.Admin{Log: memlog.New(memlog.WithPartitions(3)), Store: memstore.New()}
	for _, err := range []error{a.SplitPartition(t.Context(), "p", 0), a.MergePartition(t.Context(), "p", 0)} {
		if !errors.Is(err, fairlead.ErrState) || !strings.Contains(err.Error(), "3 partitions of its log") {
			t.Errorf("error = %v, want ErrState that says why", err)
		}
	}
	a.Log = memlog.New()
	if err := a.SplitPartition(t.Context(), "p", 0); !errors.Is(err, fairlead.ErrUnknown) {
		t.Errorf("split of what is not there: %v, want ErrUnknown", err)
	}
	if n, err := a.CancelPartitions(t.Context(), "p"); n != 0 || !errors.Is(err, fairlead.ErrUnknown) {
		t.Errorf("CancelPartitions = %d, %v, want ErrUnknown", n, err)
	}
}
