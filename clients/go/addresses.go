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
	// refusalsInARowMax bounds the refusals in a row before an address rests, however many IP
	// addresses its name has.
	refusalsInARowMax = 16
)

// addresses is which of a cluster's addresses to try next, and whether briefly. One that refused
// this client rests for a while, and the others are tried meanwhile. All IP addresses of a name are
// tried before it rests.
type addresses struct {
	states []addressState
	// current is the address that is in use, or was tried last.
	current int
	// tried is the address of the last attempt that was made beside the connection in use, or -1.
	tried int
}

type addressState struct {
	// refusals counts the rests because of one since a subscription was last made there.
	refusals   uint
	restsUntil instant
	// ips is how many IP addresses the name had at the last connection.
	ips int
	// refusedInARow counts attempts, and starts again after each rest.
	refusedInARow int
	// wasTried says whether an attempt was made here since the last subscription.
	wasTried bool
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

// handleAttemptInUse records that an attempt is made at the address in use. It returns whether the
// attempt must be brief, because another address may be tried now, and was not tried since the last
// subscription.
func (a *addresses) handleAttemptInUse(now instant) bool {
	a.states[a.current].wasTried = true
	for _, state := range a.states {
		if !state.wasTried && state.restsUntil <= now {
			return true
		}
	}
	return false
}

// handleConnection records that a connection was made to an address, and how many IP addresses its
// name has.
func (a *addresses) handleConnection(index, ips int) { a.states[index].ips = ips }

// handleFailure records that a connection to an address ended, or was not made. It returns whether
// the address must rest: if it is refused, unless another IP address of its name may lead to
// another edge.
func (a *addresses) handleFailure(index int, isRefused bool) bool {
	state := &a.states[index]
	if !isRefused {
		state.refusedInARow = 0
		return false
	}
	state.refusedInARow++
	if state.refusedInARow < state.ips && state.refusedInARow < refusalsInARowMax {
		return false
	}
	state.refusedInARow = 0
	return true
}

// hasMoreEdges returns whether the next attempt at this address leads to another IP address of its
// name, because an edge at the last one has refused this client.
func (a *addresses) hasMoreEdges(index int) bool { return a.states[index].refusedInARow > 0 }

// handleRefusal lets an address rest, because the edges there refused this client, and will again.
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
func (a *addresses) handleSuccess(index int) {
	a.states[index] = addressState{ips: a.states[index].ips}
	for i := range a.states {
		a.states[i].wasTried = false
	}
}

// after returns the address to try after one, and from when on. That is the same one while its name
// has more edges, or the next one that does not rest or, if all do, the one that rests for the
// shortest time.
func (a *addresses) after(index int, now instant) (int, instant) {
	if a.hasMoreEdges(index) {
		return index, maxOf(a.states[index].restsUntil, now)
	}
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
