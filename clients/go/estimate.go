package tickstorm

import (
	"math"
	"time"
)

const (
	// sampleAgeMax is the age after which a sample no longer counts.
	sampleAgeMax = 30 * time.Second
	// samplesMax bounds the samples kept. It is about three times the number that a client collects
	// in 30 s if it sends a HEARTBEAT every 2 s.
	samplesMax = 64
	// suspensionMin is the jump of the time suspended that counts as a suspension.
	suspensionMin = 10 * time.Millisecond
	// doubt is added to the error of an offset from before a stall: machines may count the time for
	// which they were suspended in whole seconds.
	doubt = time.Second
)

// exchange is the timestamps of a HEARTBEAT and its PONG. t1 and t4 are by this machine's clock,
// t2 and t3 are authority time.
type exchange struct {
	t1Us, t2Us, t3Us int64
	t4               instant
	errorBoundUs     uint32
}

// estimator learns authority time from the PONGs of the last 30 s, as in NTP. An error bound only
// holds if the machine's own clock does, so after a suspension or a stall of seconds, all is
// learned again.
type estimator struct {
	samples []sample
	rate    rateWatch
	// suspended is for how long the machine had been suspended in all when that was last noted.
	suspended      time.Duration
	knowsSuspended bool
	stall          *stall
	// suspensionUncertain says that a jump of suspended may be a step of the wall clock.
	suspensionUncertain bool
}

// stall is the last moment at which this machine was seen to have been suspended or to have
// stalled.
type stall struct {
	seenAt instant
	// before is the best offset from before, corrected by the time suspended.
	before *sample
}

// sample is the offset that one usable PONG gives.
type sample struct {
	// offset is authority time minus this machine's clock, in nanoseconds.
	offset    int64
	halfTrip  time.Duration
	edgeBound time.Duration
	readAt    instant
}

// sampleOf computes the offset. All arithmetic is checked, because the other side may send any
// times.
func sampleOf(x exchange) (sample, bool) {
	const usMax = math.MaxInt64 / 1000
	if x.t2Us <= 0 || x.t3Us <= 0 || x.t2Us > usMax || x.t3Us > usMax ||
		x.t1Us < -usMax || x.t1Us > usMax {
		return sample{}, false
	}
	there, ok1 := subtract(x.t2Us*1000, x.t1Us*1000)
	back, ok2 := subtract(x.t3Us*1000, int64(x.t4))
	trip, ok3 := subtract(there, back)
	if !ok1 || !ok2 || !ok3 || trip < 0 {
		return sample{}, false
	}
	return sample{
		offset:    there/2 + back/2,
		halfTrip:  time.Duration(trip/2 + trip%2),
		edgeBound: time.Duration(x.errorBoundUs) * time.Microsecond,
		readAt:    x.t4,
	}, true
}

func (s *sample) countsAt(now instant) bool { return now-s.readAt <= sampleAgeMax }

// agedHalfTrip is the value by which samples are compared. It leaves out the edge's error bound,
// which is part of all samples alike.
func (s *sample) agedHalfTrip(now instant, ppm int64) time.Duration {
	age := maxOf(now-s.readAt, 0)
	return add(s.halfTrip, time.Duration(int64(age)/1000*ppm/1000))
}

func (s *sample) err(now instant, ppm int64) time.Duration {
	return add(s.agedHalfTrip(now, ppm), s.edgeBound)
}

// agreesWith returns whether both samples can be true, that is, whether their intervals overlap.
func (s *sample) agreesWith(other *sample, now instant, ppm int64) bool {
	apart, ok := subtract(s.offset, other.offset)
	if !ok {
		return false
	}
	if apart < 0 {
		apart = -apart
	}
	return time.Duration(apart) <= add(s.err(now, ppm), other.err(now, ppm))
}

// unixTime is authority time in nanoseconds, with an error bound.
type unixTime struct {
	ns  int64
	err time.Duration
}

func (u unixTime) public() *Estimate {
	return &Estimate{Time: time.Unix(0, u.ns).UTC(), Error: u.err}
}

func (s *sample) estimate(now instant, ppm int64, more time.Duration) (unixTime, bool) {
	ns := int64(now) + s.offset
	if (s.offset > 0) != (ns > int64(now)) && s.offset != 0 {
		return unixTime{}, false
	}
	return unixTime{ns: ns, err: add(s.err(now, ppm), more)}, true
}

// handleExchange learns from one PONG. One without times, or with a negative round trip, is
// ignored.
func (e *estimator) handleExchange(x exchange) {
	newest, ok := sampleOf(x)
	if !ok {
		return
	}
	// A HEARTBEAT from before a stall may have been under way for longer than the clock tells.
	if e.stall != nil && x.t1Us < int64(e.stall.seenAt/time.Microsecond) {
		return
	}
	e.rate.handleSample(ratePoint{
		at:     newest.readAt,
		offset: newest.offset,
		err:    add(newest.halfTrip, newest.edgeBound),
	})
	e.insert(newest)
}

func (e *estimator) insert(newest sample) {
	now, ppm := newest.readAt, e.rate.driftPPM()
	kept := e.samples[:0]
	for i := range e.samples {
		older := e.samples[i]
		if !older.countsAt(now) {
			continue
		}
		// The intervals contradict each other: a clock was stepped, or a machine was stalled. The
		// older samples no longer describe the present time.
		if !older.agreesWith(&newest, now, ppm) {
			kept = kept[:0]
			break
		}
		kept = append(kept, older)
	}
	if len(kept) == samplesMax {
		kept = kept[:copy(kept, kept[1:])]
	}
	e.samples = append(kept, newest)
	if e.stall != nil {
		e.stall.before = nil
	}
}

// clear discards all samples, because the time that they describe is no longer valid.
func (e *estimator) clear() {
	e.samples = e.samples[:0]
	e.rate.restart()
	e.stall = nil
}

// handleSuspended notes for how long the machine has been suspended in all. It returns true if that
// has jumped since it was last noted, after which all samples are gone.
func (e *estimator) handleSuspended(now instant, suspended time.Duration) bool {
	before, known := e.suspended, e.knowsSuspended
	e.suspended, e.knowsSuspended = suspended, true
	if !known || !wasSuspended(before, suspended) {
		return false
	}
	var more time.Duration
	if e.suspensionUncertain {
		more = maxOf(suspended-before, before-suspended)
	}
	e.handleLoss(now, maxOf(suspended-before, 0), more)
	return true
}

func wasSuspended(before, after time.Duration) bool {
	return maxOf(after-before, before-after) >= suspensionMin
}

// isVoid returns whether the machine has been suspended since that was last noted.
func (e *estimator) isVoid(suspended time.Duration) bool {
	return e.knowsSuspended && wasSuspended(e.suspended, suspended)
}

// handleStall discards all samples, because this machine was seen to have stalled for seconds, for
// a reason that may have affected its clock.
func (e *estimator) handleStall(now instant) { e.handleLoss(now, 0, 0) }

func (e *estimator) handleLoss(now instant, suspendedFor, more time.Duration) {
	var before *sample
	if e.stall != nil {
		before = e.stall.before
	}
	if best := e.best(now, func(*sample) bool { return true }); best != nil {
		before = best
	}
	e.stall = &stall{seenAt: now}
	if before != nil {
		corrected := *before
		corrected.offset += int64(suspendedFor)
		corrected.edgeBound = add(corrected.edgeBound, more)
		e.stall.before = &corrected
	}
	e.samples = e.samples[:0]
	e.rate.restart()
}

func (e *estimator) best(now instant, counts func(*sample) bool) *sample {
	ppm := e.rate.driftPPM()
	var best *sample
	for i := range e.samples {
		s := &e.samples[i]
		if counts(s) && (best == nil || s.agedHalfTrip(now, ppm) < best.agedHalfTrip(now, ppm)) {
			best = s
		}
	}
	return best
}

// apart returns an estimator without samples that knows the rate of this machine's clock.
func (e *estimator) apart() *estimator {
	return &estimator{
		rate:                rateWatch{measured: e.rate.measured},
		suspensionUncertain: e.suspensionUncertain,
	}
}

// handleConnection records that the samples to come are those of another connection, whose edge may
// follow another clock.
func (e *estimator) handleConnection() { e.rate.restart() }

// takeOver continues with what another estimator has learned over a connection of its own.
func (e *estimator) takeOver(other *estimator) {
	e.handleConnection()
	for _, s := range other.samples {
		if e.stall == nil || s.readAt > e.stall.seenAt {
			e.insert(s)
		}
	}
}

// estimate returns authority time, or false if no usable PONG was read in the 30 s before.
func (e *estimator) estimate(now instant) (unixTime, bool) {
	best := e.best(now, func(s *sample) bool { return s.countsAt(now) })
	if best == nil {
		return unixTime{}, false
	}
	return best.estimate(now, e.rate.driftPPM(), 0)
}

// estimateLateness returns authority time for telling how late something was: the estimate or,
// until there is one again after a stall, what the samples from before say, with a larger error.
func (e *estimator) estimateLateness(now instant) (unixTime, bool) {
	if at, ok := e.estimate(now); ok {
		return at, true
	}
	if e.stall == nil || e.stall.before == nil {
		return unixTime{}, false
	}
	return e.stall.before.estimate(now, e.rate.driftPPM(), doubt)
}

// subtract returns a − b, and false if that does not fit.
func subtract(a, b int64) (int64, bool) {
	difference := a - b
	return difference, (difference < a) == (b > 0)
}

// add returns the sum of two durations that are not negative, or the longest one.
func add(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
