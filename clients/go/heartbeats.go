package tickstorm

import "time"

const (
	// openingHeartbeats open a connection, so that the best of some samples gives a good first
	// estimate of the time.
	openingHeartbeats = 8
	openingInterval   = 100 * time.Millisecond
	// exactInterval is the longest time between two samples for a client that releases ticks itself.
	exactInterval = 2 * time.Second
	// timelessInterval is the time between two HEARTBEATs while the edge does not know the time.
	timelessInterval = time.Second
	// timelessSparingInterval replaces it after RATE_LIMITED.
	timelessSparingInterval = 2 * time.Second
	// heartbeatIntervalMin keeps a misconfigured edge from making a client send continuously.
	heartbeatIntervalMin = 100 * time.Millisecond
	// framesInterval is the shortest heartbeat interval at an edge that allows one frame per second,
	// and that divided by the rate at others. A client sends at two thirds of the interval, less the
	// jitter, which is 1.2 times the time of a frame.
	framesInterval = 2 * time.Second
	// heartbeatJitterPercent keeps clients that started together from sending together.
	heartbeatJitterPercent = 10
)

// heartbeats is the schedule of one connection's HEARTBEATs, starting with the ACK of AUTH.
type heartbeats struct {
	interval time.Duration
	next     instant
	// last is when the last HEARTBEAT was sent, or long ago.
	last             instant
	openingLeft      int
	timelessInterval time.Duration
	// sparing says that an edge has answered RATE_LIMITED: no HEARTBEAT follows the one before within
	// timelessSparingInterval, unless the edge's own interval demands it.
	sparing bool
	// edgeKnowsTime says whether the last PONG carried authority time, and usual is when to send the
	// next HEARTBEAT if it did.
	edgeKnowsTime bool
	usual         instant
	// voidBefore is the last moment at which all samples were void. PONGs to earlier HEARTBEATs are
	// no samples.
	voidBefore instant
}

// newHeartbeats returns the schedule for an edge that wants a HEARTBEAT at least once in each
// interval, and allows frameRate frames per second, or does not say how many if that is 0. The
// HEARTBEATs at the start fit into the burst that every edge accepts; the later ones keep to the
// rate.
func newHeartbeats(
	interval time.Duration, frameRate uint32, sparing bool, now instant,
) *heartbeats {
	var allowed time.Duration
	if frameRate > 0 {
		allowed = framesInterval / time.Duration(frameRate)
	}
	h := &heartbeats{
		interval:         maxOf(maxOf(interval, heartbeatIntervalMin), allowed),
		next:             now,
		last:             now - time.Hour,
		openingLeft:      openingHeartbeats,
		timelessInterval: maxOf(timelessInterval, twoThirds(allowed)),
	}
	if sparing {
		h.sparing, h.openingLeft, h.timelessInterval = true, 1, timelessSparingInterval
	}
	return h
}

// twoThirds rounds up, so that what is left after the jitter is no less than 1.2 frames.
func twoThirds(d time.Duration) time.Duration { return (2*d + 2) / 3 }

// requireExactTime brings the next HEARTBEAT forward, because the client now needs the exact time.
func (h *heartbeats) requireExactTime(now instant) { h.next = minOf(h.next, now+exactInterval) }

// handlePong records whether the PONG to the HEARTBEAT of t1 carried the time. If not, HEARTBEATs
// are frequent until one does.
func (h *heartbeats) handlePong(hasTime bool, t1 instant) {
	switch {
	case !hasTime:
		h.edgeKnowsTime = false
		h.hasten(h.last)
	case t1 >= h.voidBefore:
		if !h.edgeKnowsTime && h.openingLeft == 0 {
			h.next = h.usual
		}
		h.edgeKnowsTime = true
	}
}

// hasten brings the next HEARTBEAT forward to now, or to the shortest interval after the last one.
func (h *heartbeats) hasten(now instant) {
	h.next = minOf(h.next, maxOf(now, h.last+h.timelessInterval))
}

// sampleAgain makes HEARTBEATs as frequent as with an edge that does not know the time yet, because
// all samples are void.
func (h *heartbeats) sampleAgain(now instant) {
	h.edgeKnowsTime, h.voidBefore = false, now.Truncate(time.Microsecond)
	h.hasten(now)
}

// handleSent records that a HEARTBEAT is sent, and schedules the next one.
func (h *heartbeats) handleSent(now instant, exact bool, random uint32) {
	h.last = now
	if h.openingLeft > 0 {
		h.openingLeft--
	}
	steady := twoThirds(h.interval)
	wait := steady
	if exact {
		wait = minOf(wait, exactInterval)
	}
	h.usual = now + h.vary(wait, steady, random)
	switch {
	case h.openingLeft > 0:
		h.next = now + openingInterval
	case h.edgeKnowsTime:
		h.next = h.usual
	default:
		h.next = now + h.vary(minOf(steady, h.timelessInterval), steady, random)
	}
}

// vary varies a wait at random.
func (h *heartbeats) vary(wait, steady time.Duration, random uint32) time.Duration {
	percent := 100 - heartbeatJitterPercent + int64(random%(2*heartbeatJitterPercent+1))
	wait = wait * time.Duration(percent) / 100
	if h.sparing {
		wait = maxOf(wait, minOf(steady, timelessSparingInterval))
	}
	return wait
}
