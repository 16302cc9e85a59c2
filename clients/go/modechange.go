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
// the SECOND ticks from the present on follow, and not those of the minute before.
func (s *subscription) placeIn(mode Mode, now instant) position {
	p := position{mode: mode}
	if earlier := s.positions[mode]; earlier != nil {
		p.floor = earlier.point
	}
	if s.position.point != nil {
		point := *s.position.point
		at, knows := s.est.estimateLateness(now)
		present := at.ns/int64(time.Millisecond) - int64(at.err/time.Millisecond) - 1
		if mode == ModeSecond && knows && present > point {
			// A minute may have begun whose tick has not arrived. The SECOND tick takes its place.
			if due := ModeMinute.nextAfter(present) - ModeMinute.periodMs(); due > point {
				present = due - 1
			}
			point = present
		}
		p.point = &point
	}
	if p.point != nil && p.floor != nil && *p.floor > *p.point {
		p.point = p.floor
	}
	return p
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
