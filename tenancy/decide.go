// Package tenancy decides which consumers of a service an event is for when
// tests run in production: beside the baseline (the deployment that serves
// customers) there are sandboxes, which read the same topics. It reads tenant,
// traffic class and route out of headers, and says who processes the event. All
// of it is pure.
//
// A tenant is the customer whose event it is. A traffic class says whether it is
// production or test traffic. They are two things: a class routes and nothing
// else. A route names, for some services, the sandbox that a request is for.
//
// The rules are those of "Setting Up Kafka Multi-Tenancy" (DoorDash, 2024), with
// its table of ten rows, and what that leaves open decided so that every event
// has exactly one owner or is parked: see [Decide].
package tenancy

// An Environment is what a consumer is part of.
type Environment uint8

const (
	Baseline Environment = iota // the deployment that serves customers
	Sandbox
)

func (e Environment) String() string { return [...]string{"baseline", "sandbox"}[e] }

// A Class is the traffic class of an event, as far as it matters.
type Class uint8

const (
	NoClass      Class = iota // no header says one
	Production                // the class of customers' traffic
	Test                      // one of the classes of tests
	UnknownClass              // a header says one that nobody has declared
	numClasses
)

func (c Class) String() string {
	return [...]string{"absent", "production", "test", "unknown"}[c]
}

// A Target is what a route says to one consumer.
type Target uint8

const (
	NoRoute      Target = iota // there is no route
	ForMe                      // it names this service, and this consumer's host label
	ForOther                   // it names this service, and another host label
	OtherService               // it names other services only
)

func (t Target) String() string {
	return [...]string{"absent", "match", "mismatch", "other service"}[t]
}

// A List are the classes that a consumer is allowed to take.
type List uint8

const (
	NoList    List = iota // nothing is configured
	OwnClass              // that of the consumer's environment only
	BothClass             // production and test
	WrongOnly             // that of the other environment only, or none at all
)

// A Flag says whether tenant routing was switched on.
type Flag uint8

const (
	FlagUnset Flag = iota
	FlagTrue
	FlagFalse
)

// An Action is what a consumer does with an event.
type Action uint8

const (
	Process Action = iota
	// Skip: it is somebody else's. The position moves on, and it is counted.
	Skip
	// SkipWhileAlive: it is that of the sandbox that the route names. Where a
	// ledger says that this one is dead at the event's position, it is the
	// baseline's.
	SkipWhileAlive
	// SkipUnowned: this sandbox does not take it, and the other sandboxes do not
	// either. The baseline has to, or it is lost: it is counted as unowned.
	SkipUnowned
	// Shadow: process it beside its owner, without effects that others see.
	Shadow
	// Park: keep it, with the reason, for a person to look at.
	Park
	// Refuse: no consumer that passed [Rules.Check] comes here.
	Refuse
	numActions
)

func (a Action) String() string {
	return [...]string{"process", "skip", "skip while the sandbox is alive", "skip, unowned", "shadow", "park", "refuse"}[a]
}

// A Rule names what decided: for counters, so there are few of them.
type Rule uint8

const (
	RuleInconsistent Rule = iota // headers contradict each other, or were cut
	RuleNotAllowed               // the class is not in the list
	RuleProduction               // production traffic is the baseline's
	RuleDefaulted                // no class and no route: taken for production
	RuleLost                     // a route without a class, as is left of headers that were cut
	RuleUnknown                  // a class that nobody has declared
	RuleRoute                    // the route decided
	RuleStatic                   // a list without routing: the route is not looked at
	RuleNoRouting                // routing is off
	RuleInvalid                  // a configuration that [Rules.Check] refuses
	RuleLedger                   // a route ledger decided, by the position
	rules
)

func (r Rule) String() string {
	return [...]string{
		"inconsistent", "not_allowed", "production", "defaulted", "lost_class", "unknown_class",
		"route", "static", "no_routing", "invalid", "ledger",
	}[r]
}

// Decide says what a consumer does with an event whose headers agree. It is the
// whole truth table, and depends on nothing but its arguments:
//
//   - Production traffic is the baseline's, whatever its route. A sandbox takes it
//     only as a shadow.
//   - Test traffic follows its route, which is resolved for this service first: a
//     route that names other services only is none. With a route to a sandbox it
//     is that sandbox's, without one the baseline's.
//   - A list of the own class alone and no flag is static: routes are not looked
//     at, and every sandbox takes all test events (row 4 of the table). With the
//     flag, such a sandbox takes what is routed to it.
//   - Without a class an event is production's, unless it has a route: only tests
//     have one, so its class was lost, and the baseline parks it. So it does with
//     a class that nobody knows.
func Decide(env Environment, class Class, target Target, list List, flag Flag) (Action, Rule) {
	if list == WrongOnly || list == BothClass && flag == FlagFalse {
		return Refuse, RuleInvalid
	}
	if env == Sandbox {
		return decideSandbox(class, target, list, flag)
	}
	switch class {
	case Production:
		return Process, RuleProduction
	case UnknownClass:
		return Park, RuleUnknown
	case NoClass:
		switch {
		case target == NoRoute:
			return Process, RuleDefaulted
		case flag == FlagFalse:
			return Process, RuleNoRouting
		}
		return Park, RuleLost
	}
	switch {
	case list == OwnClass:
		return Skip, RuleNotAllowed
	case flag == FlagFalse:
		return Process, RuleNoRouting
	case target == ForOther:
		return SkipWhileAlive, RuleRoute
	case target == ForMe: // a baseline has no host label
		return Refuse, RuleInvalid
	}
	return Process, RuleRoute
}

func decideSandbox(class Class, target Target, list List, flag Flag) (Action, Rule) {
	shadows := list == NoList && flag == FlagFalse
	switch {
	case class == UnknownClass:
		return Skip, RuleUnknown
	case class != Test && shadows:
		return Shadow, RuleNoRouting
	case class == Production:
		return Skip, RuleProduction
	case class == NoClass:
		return Skip, RuleDefaulted
	case shadows && target == ForMe:
		return Shadow, RuleNoRouting
	case shadows:
		return Skip, RuleNoRouting
	case list == OwnClass && flag != FlagTrue:
		return Process, RuleStatic
	case target == ForMe:
		return Process, RuleRoute
	case list == OwnClass && target != ForOther:
		return SkipUnowned, RuleRoute
	}
	return Skip, RuleRoute
}
