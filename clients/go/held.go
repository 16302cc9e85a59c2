package tickstorm

import "time"

// heldMax bounds the events that are held; beyond it, the connection is not read. An edge is 800 ms
// ahead, so there are usually one or two.
const heldMax = 64

// held are the events of a subscription ahead, in the order in which they arrived. Each tick is
// held until authority time reaches it.
type held struct {
	events []Event
	// known is authority time at knownAt, by the latest estimate. It is used while there is no
	// current one.
	known    unixTime
	knownAt  instant
	hasKnown bool
	// passedMs is the latest tick that was sent as REPLAY, or 0. It proves that its time and that of
	// all ticks before it has come, even if authority time is not known.
	passedMs int64
}

func (h *held) push(e Event) {
	h.events = append(h.events, e)
	if tick, ok := e.(Tick); ok && tick.Quality == QualityReplay && tick.EpochMs > h.passedMs {
		h.passedMs = tick.EpochMs
	}
}

// isFull returns whether to stop reading. While authority time is not known, more events are held,
// because the PONG that tells the time may arrive behind them.
func (h *held) isFull() bool {
	if h.hasKnown {
		return len(h.events) >= heldMax
	}
	return len(h.events) >= queueMax
}

// dropTicks drops what is held, because authority time was stepped back, or the resume point was
// given up.
func (h *held) dropTicks() {
	h.hasKnown, h.passedMs = false, 0
	kept := h.events[:0]
	for _, e := range h.events {
		switch e.(type) {
		case Tick, Gap:
		default:
			kept = append(kept, e)
		}
	}
	h.events = kept
}

// waits returns whether an event is a tick whose time is not known to have come.
func (h *held) waits(e Event) bool {
	tick, ok := e.(Tick)
	return ok && tick.Quality != QualityReplay && tick.EpochMs > h.passedMs
}

// dropMinutes drops the MINUTE ticks later than a point that wait for their time. The SECOND ticks
// after that point would wait behind them, and include the ticks at the same moments. It returns
// the first tick that was dropped, and false if there was none.
func (h *held) dropMinutes(afterMs int64) (firstMs int64, dropped bool) {
	kept := h.events[:0]
	for _, e := range h.events {
		tick, _ := e.(Tick)
		if !h.waits(e) || tick.Mode != ModeMinute || tick.EpochMs <= afterMs {
			kept = append(kept, e)
			continue
		}
		if !dropped {
			firstMs, dropped = tick.EpochMs, true
		}
	}
	h.events = kept
	if dropped {
		h.dropMinuteGaps(firstMs)
	}
	return firstMs, dropped
}

// dropMinuteGaps drops the gaps before the MINUTE ticks that were dropped, the first of which is
// firstMs.
func (h *held) dropMinuteGaps(firstMs int64) {
	kept := h.events[:0]
	for _, e := range h.events {
		gap, ok := e.(Gap)
		if !ok || gap.Mode != ModeMinute || gap.BeforeEpochMs < firstMs {
			kept = append(kept, e)
		}
	}
	h.events = kept
}

// catchUp continues with what was known of the time before the last stall, if no connection is left
// to learn it again from. A tick is then released later than at its time, but not before. The
// result is false if nothing was known.
func (h *held) catchUp(est *estimator, now instant) bool {
	before, ok := est.estimateLateness(now)
	h.known, h.knownAt, h.hasKnown = before, now, ok
	h.known.ns -= int64(before.err)
	return ok
}

// due returns when the first event is due, as far as is known now. It is never if no event is held,
// or if the first is a tick that waits for its time and authority time is not known.
func (h *held) due(est *estimator, now instant) instant {
	if at, ok := est.estimate(now); ok {
		h.known, h.knownAt, h.hasKnown = at, now, true
	} else if h.hasKnown && est.stall != nil && est.stall.seenAt > h.knownAt {
		h.hasKnown = false
	}
	if len(h.events) == 0 {
		return never
	}
	if !h.waits(h.events[0]) {
		return now
	}
	if !h.hasKnown {
		return never
	}
	toGo := saturatedNs(h.events[0].(Tick).EpochMs) - time.Duration(h.known.ns)
	return minOf(h.knownAt+maxOf(toGo, 0), never/2)
}

// pop removes and returns the first event if it is due. Received of a tick that was held becomes
// the moment of its release.
func (h *held) pop(est *estimator, now instant) (Event, bool) {
	if h.due(est, now) > now {
		return nil, false
	}
	e := h.events[0]
	h.events = h.events[1:]
	if tick, ok := e.(Tick); ok && tick.Quality != QualityReplay {
		tick.Received = nil
		if at, ok := est.estimateLateness(now); ok {
			tick.Received = at.public()
		}
		e = tick
	}
	return e, true
}
