package tickstorm

import "time"

// This file is how a subscription changes its mode: docs/protocol.md, section Session, "One
// subscription per connection".

// setMode asks for another mode. The ticks of the old one end, and those of the new one begin, with
// the edge's acknowledgement.
func (s *subscription) setMode(at moment, mode Mode) {
	s.notice(at)
	if mode != s.position.mode && s.phase != phaseOver {
		old := s.position
		s.positions[old.mode] = &old
		s.position = s.placeIn(mode, at.now)
		// An attempt to move has asked for the old mode.
		if s.phase == phaseSubscribed && s.attempt != nil && s.rescue == nil {
			s.close(s.attempt)
			s.attempt = nil
			s.mover.retarget(len(s.addresses.states))
		}
	}
	s.settle(at.now)
}

// placeIn returns where the subscription to another mode starts, so that no tick is missing or
// repeated. After SECOND ticks, the MINUTE ticks after the last of them follow. After MINUTE ticks,
// the SECOND ticks from the present on follow, and not those of the minute before. If the present
// is not known, there is no resume point, and the edge determines it.
func (s *subscription) placeIn(mode Mode, now instant) position {
	p := position{mode: mode}
	if earlier := s.positions[mode]; earlier != nil {
		p.floor = earlier.received()
	}
	switch last := s.position.point; {
	case last != nil && mode == ModeSecond:
		p.point = s.presentAfter(*last, now)
	case last != nil:
		p.point = last
	case mode == ModeMinute:
		// No SECOND tick has arrived since the last MINUTE tick.
		p.point = p.floor
	}
	if p.point != nil && p.floor != nil && *p.floor > *p.point {
		p.point = p.floor
	}
	return p
}

// presentAfter returns the point after which SECOND ticks are requested after MINUTE ticks, the
// last of which was lastMs. It is nil if the time is not known.
func (s *subscription) presentAfter(lastMs int64, now instant) *int64 {
	at, knows := s.est.estimateLateness(now)
	earliest, fits := subtract(at.ns, int64(at.err))
	if !knows || !fits {
		return nil
	}
	// The present millisecond has begun, but a tick at its very start may not have arrived.
	present := time.Unix(0, earliest).UnixMilli() - 1
	// If a minute has begun whose tick has not arrived, the SECOND tick takes its place.
	if due := ModeMinute.nextAfter(present) - ModeMinute.periodMs(); due > lastMs {
		present = due - 1
	}
	return &present
}

// dropHeldMinutes drops the MINUTE ticks that are held, since SECOND ticks take their place. They
// were not received, so a later subscription to MINUTE may bring them.
func (s *subscription) dropHeldMinutes() {
	if s.position.mode != ModeSecond || s.position.point == nil {
		return
	}
	first, dropped := s.held.dropMinutes(*s.position.point)
	minutes := s.positions[ModeMinute]
	if dropped && minutes != nil && minutes.point != nil && *minutes.point >= first {
		before := first - 1
		minutes.point = &before
	}
}

// wantsModeChange returns whether the connection in use must be told the mode.
func (s *subscription) wantsModeChange() bool {
	if s.phase != phaseSubscribed || s.link.ended {
		return false
	}
	newest := s.link.session.newest()
	return newest != nil && newest.mode != s.position.mode
}

// nextModeChange returns when changeMode has something to do.
func (s *subscription) nextModeChange(now instant) instant {
	if !s.wantsModeChange() {
		return never
	}
	return s.link.frames.ready(subscribeFrames+1, now)
}

// changeMode sends SUBSCRIBE if another mode is wanted and the edge accepts the frame now.
func (s *subscription) changeMode(now instant) {
	if s.nextModeChange(now) > now {
		return
	}
	l := s.link
	l.frames.take(subscribeFrames, now)
	l.answerBy, l.waitedFor = now+subscribeTimeout, subscribeTimeout
	s.write(l, l.session.subscribe(s.request()))
}
