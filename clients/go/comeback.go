package tickstorm

import "time"

// This file is how a subscription comes back after a connection ended or could not be made:
// docs/protocol.md, section Reconnecting.

// handleEnd records that a connection ended or could not be made.
func (s *subscription) handleEnd(l *link, err failure, now instant) {
	s.close(l)
	switch {
	case l == s.link:
		s.handleLinkEnd(err, now)
	case s.phase == phaseSubscribed:
		s.attempt = nil
		s.handleMoveFailure(l, err, now)
	case s.first != nil:
		s.attempt = nil
		s.handleFirstFailure(err, now)
	default:
		s.attempt = nil
		s.pause(l, err, 0, false, now)
	}
}

// handleSubscriptionEnd records that the connection in use has ended, and that no move replaces it.
func (s *subscription) handleSubscriptionEnd(err failure, now instant) {
	l := s.link
	if s.attempt != nil {
		s.close(s.attempt)
		s.attempt = nil
	}
	if s.mover.target >= 0 {
		s.addresses.handleAttempt(s.mover.target)
	}
	s.link, s.rescue, s.mover = nil, nil, newMover()
	if !s.settings.reconnects {
		if err.comeBack() == comeBackWithoutResume {
			s.held.dropTicks()
		}
		s.end(err)
		return
	}
	s.pause(l, err, now-l.since, true, now)
}

// endedID returns the name of a connection that ended.
func endedID(l *link, err failure) string {
	if refusal, ok := err.(*ServerError); ok && refusal.ConnectionID != "" {
		return refusal.ConnectionID
	}
	return l.welcome.connectionID
}

// pause reports that a connection ended, and waits before the next one.
func (s *subscription) pause(
	l *link, err failure, subscribedFor time.Duration, wasSubscribed bool, now instant,
) {
	// A single name may lead to other edges, such as those behind a balancer. One attempt shows
	// whether it leads to one that knows the time.
	mayLeadElsewhere := isCode(err, CodeNoTime) && wasSubscribed && len(s.addresses.states) == 1
	if !mayLeadElsewhere {
		s.handleFailedAddress(s.addresses.current, err, now)
	}
	how := s.position.handleEnd(err.comeBack())
	resumes := how != comeBackWithoutResume
	if isCode(err, CodeTimeStepped) {
		s.est.clear()
	}
	if !resumes {
		s.held.dropTicks()
		s.positions = map[Mode]*position{}
	}
	wait := s.backoff.wait(s.hint(err, wasSubscribed), subscribedFor, s.random())
	after := maxOf(wait, s.addresses.advance(now)-now)
	s.phase, s.waitUntil = phaseWaiting, now+after
	s.emit(Reconnecting{
		Address:      s.settings.addresses[l.address],
		Err:          err,
		ConnectionID: endedID(l, err),
		After:        after,
		Resumes:      resumes,
	})
}

// handleFailedAddress handles a failure at an address: the address may have to rest, or this client
// to send fewer frames.
func (s *subscription) handleFailedAddress(address int, err failure, now instant) {
	s.sparing = s.sparing || isCode(err, CodeRateLimited)
	switch {
	case s.position.classify(err.comeBack()) == comeBackNo:
		s.addresses.handleRefusal(address, now, s.random())
	case isCode(err, CodeNoTime):
		s.addresses.rest(address, now+timelessRest(err))
	}
}

func timelessRest(err failure) time.Duration {
	return minOf(maxOf(retryAfter(err), timelessRestMin), hintMax)
}

// hint returns the hint for the first wait, or 0.
func (s *subscription) hint(err failure, wasSubscribed bool) time.Duration {
	leftByItself := false
	switch err := err.(type) {
	case *NoTimeError:
		leftByItself = wasSubscribed
	case *TimeoutError:
		leftByItself = wasSubscribed && !err.isAuth
	}
	// The hint of NO_TIME is about that edge. Another one may well know the time.
	mayGoElsewhere := isCode(err, CodeNoTime) && (len(s.addresses.states) > 1 || wasSubscribed)
	if leftByItself || mayGoElsewhere {
		return maxOf(fraction(leavingWaitMax, s.random()), time.Millisecond)
	}
	return retryAfter(err)
}

// handleFirstFailure goes to the next address at once. If all have failed, it gives up, unless an
// edge did not know the time yet.
func (s *subscription) handleFirstFailure(err failure, now instant) {
	f, tried := s.first, s.addresses.current
	s.handleFailedAddress(tried, err, now)
	f.failed = withAddress(s.settings.addresses[tried], err)
	f.tries++
	f.timelessUntil[tried] = 0
	_, isTimeless := err.(*NoTimeError)
	switch {
	case isTimeless || isCode(err, CodeNoTime):
		f.timelessUntil[tried] = now + timelessRest(err)
	case s.position.classify(err.comeBack()) == comeBackNo:
		if f.refused == nil {
			f.refused = f.failed
		}
	default:
		f.last = f.failed
	}
	from := s.addresses.advance(now)
	if f.tries < len(s.addresses.states) && from <= now {
		s.connect()
		return
	}
	due := never
	for _, until := range f.timelessUntil {
		if until > 0 {
			due = minOf(due, until)
		}
	}
	if due == never {
		if f.refused == nil {
			f.refused = f.last
		}
		s.end(f.refused)
		return
	}
	f.tries, f.last = 0, nil
	s.phase, s.waitUntil = phaseWaiting, now+maxOf(due-now, timelessRestMin)
}
