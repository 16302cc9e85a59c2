package tickstorm

import "time"

// This file is how a subscription moves to another edge: docs/protocol.md, section Moving.

// rescueMax is how long an attempt to move may continue after the old connection has ended.
const rescueMax = 2 * time.Second

// mover is the move away from the connection in use.
type mover struct {
	// plan is nil until the edge has asked this client to move.
	plan *movePlan
	// target is the address of the last attempt, or -1.
	target int
}

func newMover() mover { return mover{target: -1} }

// retarget makes the next attempt go to the address of the last one again.
func (m *mover) retarget(addresses int) { m.target = (m.target + addresses - 1) % addresses }

// rescue is the time after the old connection has ended while an attempt to move was under way.
type rescue struct {
	err    failure
	giveUp instant
}

func (s *subscription) handleGoingAway(l *link, within time.Duration, now instant) {
	if l != s.link {
		l.goingAwayAt = now + within
		return
	}
	if !s.settings.reconnects || !s.settings.moves {
		return
	}
	if s.mover.plan == nil {
		plan := newMovePlan(within, now, s.random())
		s.mover.plan = &plan
		return
	}
	s.mover.plan.handleAgain(within, now, s.random())
}

// nextMove returns when move has something to do.
func (s *subscription) nextMove() instant {
	if s.rescue != nil {
		return s.rescue.giveUp
	}
	if s.mover.plan == nil || s.attempt != nil {
		return never
	}
	return s.mover.plan.nextAttempt()
}

// move starts the next attempt to move, or gives one up, if that is due.
func (s *subscription) move(now instant) {
	if s.phase != phaseSubscribed || s.nextMove() > now {
		return
	}
	if s.rescue != nil {
		s.handleSubscriptionEnd(s.rescue.err, now)
		return
	}
	from := s.mover.target
	if from < 0 {
		from = s.addresses.current
	}
	target, at := s.addresses.after(from, now)
	if at > now {
		s.mover.plan.handleFailure(at, now, s.random())
		return
	}
	s.mover.target = target
	// What this edge learns about the time is kept apart until it is the one in use.
	s.attempt = s.dial(target, s.est.apart(), 0)
}

// handleLinkEnd records that the connection in use has ended. An attempt to move that is under way
// may replace it, unless its resume point is void.
func (s *subscription) handleLinkEnd(err failure, now instant) {
	if s.attempt == nil || voidsResumePoint(err) {
		s.handleSubscriptionEnd(err, now)
		return
	}
	s.rescue = &rescue{err: err, giveUp: now + rescueMax}
}

func voidsResumePoint(err failure) bool {
	how := err.comeBack()
	return how == comeBackWithoutResume || how == comeBackRetryResume
}

// arrive continues with the connection of an attempt to move, unless that would not be a move, or
// would cost ticks. The driver has handed over first what had arrived on the old connection.
func (s *subscription) arrive(l *link, event subscribed, now instant) {
	losesTicks := event.request.mode != s.position.mode ||
		s.position.point != nil && event.start > *s.position.point
	if l.welcome.edgeID == s.link.welcome.edgeID || losesTicks {
		s.close(l)
		s.attempt = nil
		_, from := s.addresses.after(s.mover.target, now)
		s.mover.plan.handleFailure(from, now, s.random())
		s.giveUpRescue(now)
		return
	}
	old := s.link
	if !old.ended {
		s.close(old)
	}
	s.est.takeOver(l.est)
	l.est, l.since = s.est, old.since
	s.link, s.attempt, s.rescue, s.mover = l, nil, nil, newMover()
	s.addresses.handleSuccess(l.address)
	s.addresses.use(l.address)
	s.start(event)
	s.emit(Moved{
		Address:      s.settings.addresses[l.address],
		EdgeID:       l.welcome.edgeID,
		ConnectionID: l.welcome.connectionID,
	})
	if l.goingAwayAt != never {
		s.handleGoingAway(l, maxOf(l.goingAwayAt-now, 0), now)
	}
}

// handleMoveFailure records that an attempt to move failed.
func (s *subscription) handleMoveFailure(l *link, err failure, now instant) {
	current, target, earliest := s.addresses.current, l.address, now
	how := err.comeBack()
	// The hint of SERVER_DRAINING is about where to go, and not about that edge.
	if (how == comeBackLater || how == comeBackElsewhere) && !isCode(err, CodeServerDraining) {
		earliest = now + minOf(retryAfter(err), hintMax)
	}
	// The name that is in use leads to different edges. What one of them hinted does not keep the
	// client from coming back to that name when its connection has ended.
	if target != current || !isCode(err, CodeNoTime) {
		s.handleFailedAddress(target, err, now)
	}
	if s.addresses.hasMoreEdges(target) {
		// Another edge of the name did not give this hint.
		earliest = now
	}
	if target != current {
		s.addresses.rest(target, earliest)
		earliest = now
	}
	_, from := s.addresses.after(target, now)
	if s.mover.plan != nil {
		s.mover.plan.handleFailure(maxOf(from, earliest), now, s.random())
	}
	s.giveUpRescue(now)
}

// giveUpRescue records that no attempt is left that may replace the connection that has ended.
func (s *subscription) giveUpRescue(now instant) {
	if s.rescue != nil {
		s.handleSubscriptionEnd(s.rescue.err, now)
	}
}
