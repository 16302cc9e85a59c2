package tickstorm

import "time"

const (
	// askAfter is how late a tick must be before this client asks the edge for signs of life.
	askAfter = time.Second
	// silentAfter is how late a tick must be before an edge that does not answer is left.
	silentAfter = 4 * time.Second
	// answerMax is how long a HEARTBEAT may be unanswered that was sent while a tick was late.
	answerMax = 2 * time.Second
	// timelessMax is how long an edge's answers may lack the time.
	timelessMax = 5 * time.Second
	// ticklessMax is how long a tick may be late although the edge answers and knows the time.
	ticklessMax = 5 * time.Second
	// firstTickMax is the same before the first tick, which an edge that has just started may send
	// later.
	firstTickMax = 10 * time.Second
)

// vitals is whether an edge is still of use to a subscription: it may be connected and yet send no
// ticks.
type vitals struct {
	mode      Mode
	last      int64
	hasTicked bool
	// listeningSince is since when this client has been listening for the next tick. A tick is not
	// overdue before that.
	listeningSince instant
	heardAt        instant
	// askedAt is when the oldest HEARTBEAT was sent that asks for a sign of life and has got none.
	askedAt instant
	// timelessSince is since when the edge has not known the time.
	timelessSince instant
}

func newVitals(mode Mode, start int64, now instant) *vitals {
	return &vitals{
		mode: mode, last: start, listeningSince: now, heardAt: now,
		askedAt: never, timelessSince: never,
	}
}

// handleBytes records that bytes of any kind arrived.
func (v *vitals) handleBytes(now instant) { v.heardAt, v.askedAt = now, never }

// handleTicks records that ticks arrived, the last of which is last.
func (v *vitals) handleTicks(last int64, now instant) {
	v.last, v.hasTicked = last, true
	v.listeningSince = maxOf(v.listeningSince, now)
	v.timelessSince = never
}

// handlePong records a PONG, and whether it carried the time.
func (v *vitals) handlePong(hasTime bool, est *estimator, now instant) {
	switch {
	case hasTime:
		v.timelessSince = never
	case v.timelessSince == never:
		// The edge did not know the time when a tick was due that it has not sent.
		v.timelessSince = minOf(now, v.due(est, now))
	}
}

// handleHeartbeat records that a HEARTBEAT is sent.
func (v *vitals) handleHeartbeat(est *estimator, now instant) {
	if v.wantsAnswer(est, now) && v.askedAt == never {
		v.askedAt = now
	}
}

// forgive records that until now this client could not tell, because it did not read or its machine
// stalled. Only what the edge does afterwards counts.
func (v *vitals) forgive(now instant) {
	v.listeningSince, v.heardAt = now, now
	v.askedAt, v.timelessSince = never, never
}

// wantsAnswer returns whether a tick is so late that HEARTBEATs should be sent often.
func (v *vitals) wantsAnswer(est *estimator, now instant) bool {
	return now >= v.due(est, now)+askAfter
}

// judge returns why to leave the edge, or nil.
func (v *vitals) judge(est *estimator, now instant) failure {
	due := v.due(est, now)
	if now >= v.silentAt(due) {
		return &TimeoutError{Missing: "bytes", After: now - v.heardAt}
	}
	if v.timelessSince != never && now >= v.timelessSince+timelessMax {
		return &NoTimeError{After: now - v.timelessSince}
	}
	if _, knows := est.estimate(now); knows && now >= due+v.ticklessMax() {
		return &TimeoutError{Missing: "tick", After: now - due}
	}
	return nil
}

// nextChange returns when wantsAnswer or judge may next have another result, if nothing arrives
// until then.
func (v *vitals) nextChange(est *estimator, now instant) instant {
	due := v.due(est, now)
	moments := [4]instant{due + askAfter, due + v.ticklessMax(), v.silentAt(due), never}
	if v.timelessSince != never {
		moments[3] = v.timelessSince + timelessMax
	}
	next := never
	for _, at := range moments {
		if at > now {
			next = minOf(next, at)
		}
	}
	return next
}

func (v *vitals) ticklessMax() time.Duration {
	if v.hasTicked {
		return ticklessMax
	}
	return firstTickMax
}

func (v *vitals) silentAt(due instant) instant {
	if v.askedAt == never {
		return never
	}
	return maxOf(due+silentAfter, v.askedAt+answerMax)
}

// due returns when the next tick is due. Without an estimate of authority time, that is a period
// after the last one arrived. Ticks that are sent ahead count as late only from their own time on.
func (v *vitals) due(est *estimator, now instant) instant {
	at, knows := est.estimate(now)
	if !knows {
		return v.listeningSince + v.mode.Period()
	}
	nextMs := v.mode.nextAfter(v.last)
	toGo := saturatedNs(nextMs) - time.Duration(at.ns)
	return maxOf(minOf(now+toGo, never/2), v.listeningSince)
}

// saturatedNs converts milliseconds to nanoseconds. Times that do not fit are of no use, and far
// from the present.
func saturatedNs(ms int64) time.Duration {
	const msMax = int64(never/2) / int64(time.Millisecond)
	switch {
	case ms > msMax:
		return never / 2
	case ms < -msMax:
		return -never / 2
	}
	return time.Duration(ms) * time.Millisecond
}
