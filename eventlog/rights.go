package eventlog

import "context"

// A RightsLister is a log whose role may lack rights to read it. A consumer asks
// before it begins to work, and does not begin where any lacks.
type RightsLister interface {
	// MissingReadRights returns the statements that grant what the role lacks to read
	// the log; none where it lacks nothing. An error means that it could not be found out.
	MissingReadRights(ctx context.Context) ([]string, error)
}
