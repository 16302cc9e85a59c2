package tickstorm

import "time"

// This file is how a subscription makes a connection, and what it says first.

// connect starts to connect to the current address.
func (s *subscription) connect(now instant) {
	s.phase = phaseConnecting
	var limit time.Duration
	if s.addresses.handleAttemptInUse(now) {
		limit = briefMax
	}
	s.attempt = s.dial(s.addresses.current, s.est, limit)
}

func (s *subscription) dial(address int, est *estimator, limit time.Duration) *link {
	s.links++
	l := &link{
		id: s.links, address: address, est: est, dialling: true,
		answerBy: never, goingAwayAt: never,
		session: session{exact: s.settings.exact, sparing: s.sparing},
	}
	s.actions = append(s.actions, dialAction{l.id, address, limit})
	return l
}

// introduce sends AUTH and SUBSCRIBE.
func (s *subscription) introduce(l *link, who login, now instant) {
	l.heardAt, l.answerBy, l.waitedFor = now, now+authTimeout, authTimeout
	bytes := l.session.authenticate(auth(who, s.settings.clientID, s.cookie))
	s.write(l, append(bytes, l.session.subscribe(s.request())...))
}

// request returns the SUBSCRIBE to send at present.
func (s *subscription) request() request {
	r := request{mode: s.position.mode, ahead: s.settings.ahead}
	if s.position.point != nil {
		point := *s.position.point
		r.resumeAfter = &point
	}
	return r
}

func (s *subscription) write(l *link, bytes []byte) {
	if l.unwritable != nil {
		return
	}
	if l.writing {
		l.queued = append(l.queued, bytes)
		return
	}
	l.writing = true
	s.actions = append(s.actions, writeAction{l.id, bytes})
}

func (s *subscription) close(l *link) {
	l.ended = true
	s.actions = append(s.actions, closeAction{l.id})
}
