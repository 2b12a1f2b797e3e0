package store

import (
	"context"
	"errors"
)

// ErrRights means that the role by which a process works lacks rights that it needs
// for certain: the text lists what grants them. Nothing was begun.
var ErrRights = errors.New("store: the role lacks rights")

// A RightsLister is a Store whose role may lack rights. A consumer asks before it
// begins to work, and does not begin where any lacks: it would else find out one by
// one, and some only long after.
type RightsLister interface {
	// MissingRights returns the statements that grant what the role lacks to work the
	// processors of these names, of which some may not be there yet; none where it lacks
	// nothing. An error means that it could not be found out.
	MissingRights(ctx context.Context, processors []string) ([]string, error)
}
