package tickstorm

// continuity is the relation of a tick to the last one.
type continuity int

const (
	isNext continuity = iota
	isAfterGap
	// isAgain: the tick is not later than the last one.
	isAgain
)

// position is the point from which a subscription to one mode continues, over all its connections.
type position struct {
	mode Mode
	// point is the last tick, or where the subscription started; nil if neither is known.
	point *int64
	// floor is the last tick of this mode that was handed on before the mode was changed. Ticks up
	// to it are repetitions, but it is no point to resume from.
	floor *int64
	// refusedOnce says that the point was refused once, and is tried a second time.
	refusedOnce bool
}

// received returns the point up to which the ticks of this mode were received or are not wanted, or
// nil.
func (p *position) received() *int64 {
	if p.point != nil {
		return p.point
	}
	return p.floor
}

// handleStart records that an edge accepted the subscription, which had a resume point or not, and
// sends the ticks after start.
func (p *position) handleStart(start int64, resumes bool) {
	p.refusedOnce = false
	if resumes && p.point != nil {
		return
	}
	if last := p.received(); last != nil && *last > start {
		start = *last
	}
	p.point = &start
}

// handleTick records a tick, and returns how it relates to the last one.
func (p *position) handleTick(epochMs int64) continuity {
	relation := isNext
	if p.point != nil {
		switch {
		case epochMs <= *p.point:
			return isAgain
		case epochMs > p.mode.nextAfter(*p.point):
			relation = isAfterGap
		}
	}
	p.point = &epochMs
	return relation
}

// classify returns how to come back, considering whether there is a resume point.
func (p *position) classify(how comeBack) comeBack {
	if how == comeBackRetryResume && p.point == nil {
		return comeBackNo
	}
	return how
}

// handleEnd records that a connection ended or could not be made. comeBackWithoutResume means that
// there no longer is a resume point.
func (p *position) handleEnd(how comeBack) comeBack {
	how = p.classify(how)
	switch {
	case how == comeBackRetryResume && !p.refusedOnce:
		p.refusedOnce = true
		return comeBackAtOnce
	case how == comeBackRetryResume, how == comeBackWithoutResume:
		p.point, p.floor, p.refusedOnce = nil, nil, false
		return comeBackWithoutResume
	}
	return how
}
