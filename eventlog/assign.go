package eventlog

import (
	"context"
	"errors"

	"github.com/fairlead-dev/fairlead/event"
)

// An Assigner is a log whose server shares out the log partitions among the
// processes that read it, as Kafka does among the members of a consumer group. An
// engine on it works the lanes of the partitions that were given to its process,
// and shares out nothing by itself.
//
// Who has a partition takes its lanes from a process that had them before, even if
// that one still lives: the lane's epoch grows, and so the store refuses what the
// other one writes. What is said here decides who works, never what is safe.
type Assigner interface {
	Log

	// Shares reports whether the log does so, as it is configured.
	Shares() bool

	// Assign takes part in the sharing for w until ctx ends, and then leaves. Its
	// error is that of ctx, or why it cannot take part. It is called once at a time.
	Assign(ctx context.Context, w Worker) error

	// Assigned returns the log partitions that this process has now.
	Assigned() []int
}

// ErrExcluded is wrapped by an error of [Assigner.Assign] that no repetition heals:
// the process has no right to take part, or another one has its name.
var ErrExcluded = errors.New("eventlog: this process can take no part in the sharing out of the log")

// A Worker works the log partitions that an [Assigner] gives to a process.
type Worker interface {
	// Own says which partitions are this process's from now on. The lanes of those that
	// went may be worked here until the process that has them next wants them, for
	// some time: so that they do not stand still while nobody has them. The result is
	// closed when whoever has them next can have them. It is not called
	// concurrently, and does not block.
	Own(partitions []int) (released <-chan struct{})

	// Quit is Own of nothing, where no other process will have the partitions soon. The
	// result is closed when no lane is worked here any more.
	Quit() (released <-chan struct{})

	// Checkpoints returns how far the store has all that this process's processors
	// made of these partitions: the position of the lane that is furthest behind,
	// rebuilds left out. What it cannot tell is missing.
	Checkpoints(ctx context.Context, partitions []int) (map[int]event.Position, error)
}

// An Identity is a log that knows itself again. Where a log of the same name has
// another identity, positions of the one mean nothing in the other.
type Identity interface {
	Identity() string
}
