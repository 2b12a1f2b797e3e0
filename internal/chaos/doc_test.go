// Package chaos runs a fleet of real processes on a real PostgreSQL server of its
// own, under load, and does to it what happens to fleets: processes are killed,
// stopped for longer than their lease, restarted with other code; the server is
// restarted and killed; the network between them is cut, slowed down and made a
// black hole; operators move, pause and rebuild tenants. Then it stops all of that,
// waits until everything is applied, and folds the log once more without Fairlead.
// It has tests only; `make chaos` runs them for longer.
//
// Three witnesses are outside of what is tested. A trigger on the rows of the lanes
// writes down every commit of every lane, in its own transaction, with the session
// that made it. The audit table is written by a batch projector, with the lane and
// the epoch that its transaction has. And the effects of a reactor are in a database
// on another server, which nobody disturbs, and which refuses an older epoch than it
// has seen of a lane.
package chaos
