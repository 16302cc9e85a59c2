package tickstorm

// This file is how a subscription hands out ticks: without repetitions, with every gap reported
// and, if they are sent ahead, at their time.

// handleBatch queues the events for the ticks of a batch: drops repetitions, and reports gaps.
func (s *subscription) handleBatch(b batch, readAt instant) {
	p := &s.position
	if b.mode != p.mode {
		if p = s.positions[b.mode]; p == nil {
			return
		}
	}
	var received *Estimate
	if at, ok := s.est.estimateLateness(readAt); ok {
		received = at.public()
	}
	for _, tick := range b.ticks {
		var after int64
		if p.point != nil {
			after = *p.point
		}
		switch p.handleTick(tick.EpochMs) {
		case isAgain:
			continue
		case isAfterGap:
			s.emit(Gap{Mode: b.mode, AfterEpochMs: after, BeforeEpochMs: tick.EpochMs})
		case isNext:
		}
		s.emit(Tick{
			Mode: b.mode, EpochMs: tick.EpochMs, Quality: qualityOf(tick.Quality), Received: received,
		})
	}
}

// emit queues an event, or holds it.
func (s *subscription) emit(e Event) {
	if s.settings.ahead {
		s.held.push(e)
		return
	}
	s.queue = append(s.queue, e)
}

// release queues the events that are due.
func (s *subscription) release(now instant) {
	if !s.settings.ahead {
		return
	}
	isStuck := s.phase == phaseOver && len(s.held.events) > 0 && s.held.due(s.est, now) == never
	if isStuck && !s.held.catchUp(s.est, now) {
		// The time was never known, and there is no connection left to learn it from.
		s.held.dropTicks()
	}
	for {
		e, ok := s.held.pop(s.est, now)
		if !ok {
			return
		}
		s.queue = append(s.queue, e)
	}
}
