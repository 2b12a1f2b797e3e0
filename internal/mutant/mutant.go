// Package mutant plants bugs on purpose, so that the simulation's checker is
// itself tested: built with the tag "mutants", a test turns one on and must see
// the checker find it. Without the tag nothing of it is left in the program.
package mutant

// The bugs that can be planted in the engine. Those of a store are planted by
// the simulation's wrapper around it.
const (
	MergePosition   = "merge at the base lane's position"
	CacheKept       = "cache kept after the tenant moved"
	GroupsReordered = "events of a group reordered"
	ResumeEarly     = "resume one event early, without the second proof"
	ParkedForgotten = "parked keys forgotten on restart"
	DetachPosition  = "detached lane begins after the batch"
	DirtyKept       = "documents of a failed batch kept"
	ForgetEarly     = "exclusion dropped before its end"
	SwitchBehind    = "switch to a build that is behind"
	AnswerAssumed   = "a failed commit taken for done"
	DrainUnfenced   = "dead letters drained and left in their queue"
	MergeBehind     = "merge of a lane that is behind its base lane"
	StateUnrevised  = "lanes paused and held without a new revision"
	EvictedEarly    = "documents evicted before they are committed"
	DrainOutside    = "dead letters drained of tenants that have left"
	DrainSkipped    = "dead letters drained that were given up"
	SwitchForgets   = "a switch forgets who was paused or pinned"
	KeptUnfenced    = "a build is kept without a new epoch of its lanes"
	KeptWorked      = "lanes of a build that is kept are acquired"
	KeptLetters     = "the dead letters of a build that is kept are dropped"
	KeptPosition    = "what is kept of a tenant begins at the base lane's position"
	OldBegins       = "an old version begins a rebuild back"
	ReviewIgnored   = "a switch that no operator has approved"
	SplitLetters    = "dead letters left behind in a split"
	SplitPosition   = "the new lane of a split one position too far"
	SplitEpoch      = "epoch of a merged partition's lane used again after another split"
	RecutRunning    = "partitions split and merged under their owners, who keep what they have cached"
	MergeHigher     = "merged partition at the higher of two positions"
	MergeLower      = "merged partition at the lower of two positions"
	MergeLetters    = "dead letters left behind in a merge of partitions"
	MergeOutside    = "partitions merged while a tenant has a lane of its own"
	RemovedBuilt    = "a build that begins after a tenant was removed has what it was"
	RemovedInHand   = "what base lanes have in hand of a removed tenant is committed"
)

// The bugs that can be planted in the protocol of reactors' lanes.
const (
	DoneForgotten    = "reactor: what is done beyond the position forgotten on take-over"
	WatermarkHigh    = "reactor: an unfinished event counted as done"
	OrphanIgnored    = "reactor: an event in progress of a tenant that left ignored"
	ClaimIgnored     = "reactor: a base lane not told that its tenant has another lane"
	RefillForgotten  = "reactor: events of a tenant that came back not read again"
	UnsureApplied    = "reactor: a commit without an answer taken for done"
	KeysForgotten    = "reactor: parked keys forgotten"
	LettersReordered = "reactor: dead letters drained out of order"
	LeaveBusy        = "reactor: a tenant leaves while an event of it is in progress"
	LeaveUndone      = "reactor: a tenant leaves without what it has done beyond its position"
	DoneExcluded     = "reactor: what is excluded for now counted as done"
	OrphanAssumed    = "reactor: an event in progress of a tenant that left taken for handled"
	LettersKept      = "reactor: dead letters that were given up meanwhile handed out"
	RetryAnyOrder    = "reactor: a key goes on while its failed event waits"
)

// The bugs that can be planted in the protocol of leases and in the decisions of
// the fleet.
const (
	LeaseIgnored   = "fleet: a lane taken from an owner whose lease has not ended"
	BeatForgotten  = "fleet: a heartbeat does not extend the lease"
	EpochKept      = "fleet: a lane acquired without raising its epoch"
	RefusesIgnored = "fleet: a lane placed on a member that has given it up after an error"
	MovesAnyTime   = "fleet: lanes moved from live owners while members come and go"
	PoolIgnored    = "fleet: worker pools ignored"
	LeaveForgotten = "fleet: a member that leaves gives nothing up"
	HandedIgnored  = "fleet: a lane that was handed over not worked by who has it now"
	EpochHanded    = "fleet: a lane handed over under the epoch of the owner before"
	TakenTwice     = "fleet: a lane worked again under an epoch under which the member has worked it before"
	BackForgotten  = "fleet: a lane handed to a member that has removed the processor not given back"
)

// Fleet lists these; the simulation of the fleet finds them.
var Fleet = []string{
	LeaseIgnored, BeatForgotten, EpochKept, RefusesIgnored, MovesAnyTime, PoolIgnored, LeaveForgotten,
	HandedIgnored, BackForgotten, EpochHanded, TakenTwice,
}

// All lists those before; the simulation of the lanes finds them.
var All = []string{
	MergePosition, CacheKept, GroupsReordered, ResumeEarly, ParkedForgotten, DetachPosition,
	DirtyKept, ForgetEarly, SwitchBehind, AnswerAssumed, DrainUnfenced,
	MergeBehind, StateUnrevised, EvictedEarly, DrainOutside,
	DrainSkipped, SwitchForgets, KeptUnfenced, KeptWorked, KeptLetters, KeptPosition, OldBegins, ReviewIgnored,
	SplitLetters, SplitPosition, SplitEpoch, RecutRunning, MergeHigher, MergeLetters, MergeOutside, MergeLower,
	DoneForgotten, WatermarkHigh, OrphanIgnored, ClaimIgnored, RefillForgotten, UnsureApplied, KeysForgotten,
	LettersReordered, LeaveBusy, LeaveUndone, DoneExcluded, OrphanAssumed, LettersKept, RetryAnyOrder,
}
