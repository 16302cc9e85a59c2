package tickstorm

import "time"

const (
	// refusedRestMin is the shortest rest of an address whose edge refused this client for a reason
	// that will recur. It is finite because a password or an edge may be in the middle of a change.
	refusedRestMin = 60 * time.Second
	// refusedBoundMin bounds the random time that is added to the first such rest. It doubles with
	// each further refusal there.
	refusedBoundMin = time.Second
	refusedBoundMax = 30 * time.Second
)

// addresses is which of a cluster's addresses to try next. One that refused this client rests for a
// while, and the others are tried meanwhile.
type addresses struct {
	states []addressState
	// current is the address that is in use, or was tried last.
	current int
	// tried is the address of the last attempt that was made beside the connection in use, or -1.
	tried int
}

type addressState struct {
	// refusals counts since a subscription was last made there.
	refusals   uint
	restsUntil instant
}

func newAddresses(count int) addresses {
	return addresses{states: make([]addressState, count), tried: -1}
}

// use makes an address the one in use.
func (a *addresses) use(index int) {
	a.current, a.tried = index, -1
}

// handleAttempt records an attempt beside the connection in use: the next one is made at the
// address after it.
func (a *addresses) handleAttempt(index int) { a.tried = index }

// handleRefusal records that the edge at an address refused this client, and will again.
func (a *addresses) handleRefusal(index int, now instant, random uint32) {
	state := &a.states[index]
	bound := refusedBoundMax
	if state.refusals < 5 {
		bound = refusedBoundMin << state.refusals
	}
	state.refusals++
	state.restsUntil = now + refusedRestMin + fraction(bound, random)
}

// rest lets an address rest, because its edge is of no use for that long.
func (a *addresses) rest(index int, until instant) {
	a.states[index].restsUntil = maxOf(a.states[index].restsUntil, until)
}

// handleSuccess records that a subscription was made at an address.
func (a *addresses) handleSuccess(index int) { a.states[index] = addressState{} }

// after returns the address to try after one, and from when on. That is the next one that does not
// rest or, if all do, the one that rests for the shortest time.
func (a *addresses) after(index int, now instant) (int, instant) {
	best, from := -1, never
	for step := 1; step <= len(a.states); step++ {
		next := (index + step) % len(a.states)
		if until := maxOf(a.states[next].restsUntil, now); until < from {
			best, from = next, until
		}
	}
	return best, from
}

// advance goes to the next address, and returns from when on it may be tried.
func (a *addresses) advance(now instant) instant {
	last := a.tried
	if last < 0 {
		last = a.current
	}
	next, from := a.after(last, now)
	a.use(next)
	return from
}
