// Package slo says what freshness a processor owes its readers, and measures
// whether it is kept.
package slo

import (
	"errors"
	"fmt"
	"time"
)

// Defaults of an [Objective].
const (
	DefaultP99 = time.Second
	DefaultMax = time.Minute
)

// An Objective bounds the update latency of a read model: from when the log
// recorded an event to when the read model that contains it is committed. The
// zero Objective stands for the defaults.
type Objective struct {
	// P99 is met by 99 of 100 events. Default: 1 s, or Max where that is less.
	P99 time.Duration
	// Max is met by every event: one violation is a violation. Default: 1 min,
	// or P99 where that is more.
	Max time.Duration
}

// WithDefaults returns o with its zero fields set.
func (o Objective) WithDefaults() Objective {
	switch {
	case o.P99 == 0 && o.Max == 0:
		o.P99, o.Max = DefaultP99, DefaultMax
	case o.P99 == 0:
		o.P99 = min(DefaultP99, o.Max)
	case o.Max == 0:
		o.Max = max(DefaultMax, o.P99)
	}
	return o
}

// Validate returns all faults of o, or nil: negative durations, a P99 above Max.
func (o Objective) Validate() error {
	var errs []error
	if o.P99 < 0 {
		errs = append(errs, fmt.Errorf("slo: P99 %v is negative", o.P99))
	}
	if o.Max < 0 {
		errs = append(errs, fmt.Errorf("slo: Max %v is negative", o.Max))
	}
	if d := o.WithDefaults(); len(errs) == 0 && d.P99 > d.Max {
		errs = append(errs, fmt.Errorf("slo: P99 %v is more than Max %v", d.P99, d.Max))
	}
	return errors.Join(errs...)
}

// String is like "P99 1s, max 1m0s".
func (o Objective) String() string {
	o = o.WithDefaults()
	return fmt.Sprintf("P99 %v, max %v", o.P99, o.Max)
}
