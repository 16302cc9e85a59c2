// Package clock reads the two clocks that a client needs: a monotonic one that nothing adjusts, and
// for how long the machine has been suspended, which a monotonic clock may not count.
package clock

import "time"

// Reading is one look at both clocks.
type Reading struct {
	// Now is the monotonic clock, counted from an arbitrary start.
	Now time.Duration
	// Suspended is for how long the machine has been suspended in all, or that and a constant.
	// Outside Linux it is the wall clock minus the monotonic clock, so it also drifts, and jumps if
	// the wall clock is set.
	Suspended time.Duration
}
