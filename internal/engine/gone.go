package engine

import (
	"context"
	"errors"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// stopGone pauses a lane whose log partition was deleted, with the reason: it is not
// tried again until an operator resumes the processor. It returns why the lane ends.
func (e *Engine) stopGone(ctx context.Context, id store.LaneID, epoch int64, reason error) error {
	switch err := lane.Stop(context.WithoutCancel(ctx), e.store, id, epoch, reason.Error()); {
	case err == nil:
		e.logger.Error("lane is paused", "lane", id.String(), "reason", reason)
		return errHalted
	case errors.Is(err, store.ErrFenced), errors.Is(err, store.ErrNotFound):
		return errLaneGone
	default: // it is tried again, and ends again
		return errors.Join(reason, err)
	}
}
