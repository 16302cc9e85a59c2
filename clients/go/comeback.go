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
	// After an attempt that was cut off, its time was wait enough: clients whose edge failed are as
	// spread out as before it.
	var wait time.Duration
	if !wasCutOff(err) {
		wait = s.backoff.wait(s.hint(err, wasSubscribed), subscribedFor, s.random())
	}
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
	isNo := s.position.classify(err.comeBack()) == comeBackNo
	switch mustRest := s.addresses.handleFailure(address, isNo || isCode(err, CodeNoTime)); {
	case mustRest && isNo:
		s.addresses.handleRefusal(address, now, s.random())
	case mustRest:
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
	mayGoElsewhere := isCode(err, CodeNoTime) && (len(s.addresses.states) > 1 || wasSubscribed ||
		s.addresses.hasMoreEdges(s.addresses.current))
	if leftByItself || mayGoElsewhere {
		return maxOf(fraction(leavingWaitMax, s.random()), time.Millisecond)
	}
	return retryAfter(err)
}

// handleFirstFailure goes to the next address at once. If all have failed, it gives up, unless an
// attempt was cut off, or an edge did not know the time yet.
func (s *subscription) handleFirstFailure(err failure, now instant) {
	f, tried := s.first, s.addresses.current
	s.handleFailedAddress(tried, err, now)
	f.handleFailure(tried, withAddress(s.settings.addresses[tried], err), err,
		s.position.classify(err.comeBack()) == comeBackNo, now)
	if s.addresses.hasMoreEdges(tried) {
		s.connect(now)
		return
	}
	f.tries++
	from := s.addresses.advance(now)
	if f.tries < len(s.addresses.states) && from <= now {
		s.connect(now)
		return
	}
	due := f.due()
	switch {
	case due != never:
		s.phase, s.waitUntil = phaseWaiting, now+maxOf(due-now, timelessRestMin)
		f.beginPass(s.waitUntil)
	case len(f.cutOff) > 0:
		s.addresses.use(f.cutOff[0])
		f.cutOff, f.tries = f.cutOff[1:], len(s.addresses.states)
		s.connect(now)
	case f.refused != nil:
		s.end(f.refused)
	default:
		s.end(f.last)
	}
}

// handleFailure records that an attempt at an address failed. isNo says that it would fail again,
// and shown names the address.
func (f *firstPass) handleFailure(address int, shown error, err failure, isNo bool, now instant) {
	f.failed = shown
	_, isTimeless := err.(*NoTimeError)
	switch {
	case isTimeless || isCode(err, CodeNoTime):
		f.timelessUntil[address] = now + timelessRest(err)
	case isNo:
		if f.refused == nil {
			f.refused = shown
		}
	default:
		if wasCutOff(err) {
			f.cutOff = append(f.cutOff, address)
		}
		f.last = shown
	}
}

// due returns when the first edge that did not know the time may be asked again, or never.
func (f *firstPass) due() instant {
	due := never
	for _, until := range f.timelessUntil {
		if until > 0 {
			due = minOf(due, until)
		}
	}
	return due
}

// beginPass begins another pass over the addresses.
func (f *firstPass) beginPass(now instant) {
	f.tries, f.last, f.cutOff = 0, nil, nil
	for i, until := range f.timelessUntil {
		if until <= now {
			f.timelessUntil[i] = 0
		}
	}
}
