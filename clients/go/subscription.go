package tickstorm

import (
	"errors"
	"io"
	"time"
)

const (
	// leavingWaitMax is the upper limit of the first wait after this client left an edge on its own
	// account. An edge that drains gives hints of that size; a sick edge cannot.
	leavingWaitMax = 500 * time.Millisecond
	// briefMax limits an attempt to connect while other addresses are left to try. With the 4 s after
	// which a silent edge is noticed, and the wait after that, a dead address does not make a tick
	// more than 6 s late.
	briefMax = time.Second
	// timelessRestMin is the shortest rest of an address whose edge does not know the time.
	timelessRestMin = time.Second
	// queueMax bounds the events queued for a slow reader: one batch of maximum size. Beyond it, the
	// connection is not read.
	queueMax = 1_000
)

// moment is one look at the clocks.
type moment struct {
	now       instant
	suspended time.Duration
}

// login is what AUTH presents.
type login struct{ username, password, token string }

// phase is what the subscription does at present.
type phase int

const (
	phaseConnecting phase = iota
	phaseSubscribed
	phaseWaiting
	phaseOver
)

// The actions that a subscription asks its driver for.
type (
	// dialAction asks to connect to an address, and for the credentials. limit is for the lookup of
	// the name and the TCP connection together, after which the attempt fails with errCutOff; 0 means
	// the usual limits.
	dialAction struct {
		link, address int
		limit         time.Duration
	}
	// writeAction asks to write bytes, and to report when they are written.
	writeAction struct {
		link  int
		bytes []byte
	}
	// heartbeatAction asks to write a HEARTBEAT whose client_time_us is read when it is written.
	heartbeatAction struct{ link int }
	// closeAction asks to close a connection, or to give up dialling it.
	closeAction struct{ link int }
)

// settings is the part of Options that the logic needs.
type settings struct {
	addresses   []string
	mode        Mode
	ahead       bool
	exact       bool
	resumeAfter *int64
	clientID    string
	reconnects  bool
	moves       bool
}

// subscription is the logic of a client: one subscription, which may span many connections. It
// follows each connection to its end, waits, comes back, or moves to another edge while the old one
// still sends, and hands on the events as one sequence, without repetitions and with every gap
// reported. It does no I/O, reads no clock and draws no random numbers: a driver reports what
// happened and when, performs the actions, and calls again at the moment that next returns.
type subscription struct {
	settings settings
	random   func() uint32

	phase phase
	// link is the connection in use; attempt is one that is being made instead of it or, during a
	// move, beside it.
	link      *link
	attempt   *link
	waitUntil instant
	first     *firstPass
	mover     mover
	rescue    *rescue
	links     int

	est       *estimator
	position  position
	positions map[Mode]*position
	backoff   backoff
	addresses addresses
	cookie    []byte
	sparing   bool

	held    held
	queue   []Event
	actions []any
	// err is why the subscription is over.
	err error

	// wakeBy is when the driver calls again at the latest, and wakeExact whether a tick is released
	// then.
	wakeBy    instant
	wakeExact bool
	wasRead   bool
}

// firstPass is the state of the first connection: each address is tried once, and those that were
// cut off are tried again.
type firstPass struct {
	tries int
	// cutOff is the addresses whose attempt was cut off in this pass.
	cutOff []int
	// refused is the first refusal, last the last other failure, and failed the last one of any kind.
	refused, last, failed error
	// timelessUntil is when each address whose edge did not know the time may be asked again, or 0.
	timelessUntil []instant
}

func newSubscription(s settings, random func() uint32) *subscription {
	return &subscription{
		settings:  s,
		random:    random,
		est:       &estimator{},
		position:  position{mode: s.mode, point: s.resumeAfter},
		positions: map[Mode]*position{},
		addresses: newAddresses(len(s.addresses)),
		first:     &firstPass{timelessUntil: make([]instant, len(s.addresses))},
		wakeBy:    never,
		wasRead:   true,
	}
}

// begin makes the first attempt to connect.
func (s *subscription) begin(at moment) {
	s.notice(at)
	s.connect(at.now)
	s.settle(at.now)
}

// handleTimer does what is due.
func (s *subscription) handleTimer(at moment) {
	s.notice(at)
	s.settle(at.now)
}

// handleDialled records that a connection was made, to one of so many IP addresses of the name, and
// what to present there, or that it failed.
func (s *subscription) handleDialled(at moment, id int, l login, ips int, err failure) {
	s.notice(at)
	if a := s.find(id); a != nil && a.dialling {
		a.dialling = false
		if err != nil {
			s.handleEnd(a, err, at.now)
		} else {
			s.addresses.handleConnection(a.address, ips)
			s.introduce(a, l, at.now)
		}
	}
	s.settle(at.now)
}

// handleRead records bytes that were read at a moment.
func (s *subscription) handleRead(at moment, id int, bytes []byte, readAt instant) {
	s.notice(at)
	if l := s.find(id); l != nil {
		l.heardAt = maxOf(l.heardAt, readAt)
		if l.vitals != nil {
			l.vitals.handleBytes(readAt)
		}
		l.session.feed(bytes)
		s.drain(l, readAt, at.now)
	}
	s.settle(at.now)
}

// handleClosed records that a connection has ended.
func (s *subscription) handleClosed(at moment, id int, err error) {
	s.notice(at)
	if l := s.find(id); l != nil {
		// A broken pipe says less than why reading failed, but more than an end of file.
		if l.unwritable != nil && errors.Is(err, io.EOF) {
			err = l.unwritable
		}
		s.handleEnd(l, &ClosedError{Err: err}, at.now)
	}
	s.settle(at.now)
}

// handleWritten records that bytes were written, or that the connection cannot be written to any
// more. It can still be read, and an ERROR explains more.
func (s *subscription) handleWritten(at moment, id int, err error) {
	s.notice(at)
	if l := s.find(id); l != nil {
		l.writing, l.unwritable = false, err
		if err == nil && len(l.queued) > 0 {
			next := l.queued[0]
			l.queued = l.queued[1:]
			s.write(l, next)
		}
	}
	s.settle(at.now)
}

// takeActions returns what the driver must do.
func (s *subscription) takeActions() []any {
	actions := s.actions
	s.actions = nil
	return actions
}

// handleTaken records that the first event of the queue was handed on.
func (s *subscription) handleTaken(at moment) {
	s.notice(at)
	s.queue = s.queue[1:]
	s.settle(at.now)
}

// next returns when to call handleTimer, and whether a tick is released then.
func (s *subscription) next() (at instant, exact bool) { return s.wakeBy, s.wakeExact }

func (s *subscription) nextTimer(now instant) instant {
	next := now + turnMax
	if s.phase == phaseOver {
		return minOf(next, s.held.due(s.est, now))
	}
	if s.phase == phaseWaiting {
		next = minOf(next, s.waitUntil)
	}
	for _, l := range [...]*link{s.link, s.attempt} {
		if l != nil {
			next = minOf(next, l.nextChange(s.settings.reconnects && s.reads(), now))
		}
	}
	if s.link != nil {
		next = minOf(next, s.nextModeChange(now))
		next = minOf(next, s.nextMove())
	}
	if s.settings.ahead {
		next = minOf(next, s.held.due(s.est, now))
	}
	return maxOf(next, now)
}

// reads returns whether to read from the connection in use.
func (s *subscription) reads() bool {
	return len(s.queue) < queueMax && !s.held.isFull()
}

// isOver returns whether all events were handed on and none will follow.
func (s *subscription) isOver() bool {
	return s.phase == phaseOver && len(s.queue) == 0 && len(s.held.events) == 0
}

func (s *subscription) find(id int) *link {
	for _, l := range [...]*link{s.link, s.attempt} {
		if l != nil && l.id == id && !l.ended {
			return l
		}
	}
	return nil
}

// notice takes it into account if this machine was suspended or stalled.
func (s *subscription) notice(at moment) {
	late := maxOf(at.now-s.wakeBy, 0)
	void := s.est.handleSuspended(at.now, at.suspended)
	if late > freezeMin {
		s.est.handleStall(at.now)
		void = true
	}
	for _, l := range [...]*link{s.link, s.attempt} {
		if l == nil {
			continue
		}
		if l.est != s.est {
			if suspended := l.est.handleSuspended(at.now, at.suspended); !suspended && void {
				l.est.handleStall(at.now)
			}
		}
		if void && l.session.beats != nil {
			l.session.beats.sampleAgain(at.now)
		}
		if void || late > stallMin {
			l.forgive(at.now)
			if l.answerBy != never {
				l.answerBy += late
			}
		}
	}
}

// settle does everything that is due, after something happened.
func (s *subscription) settle(now instant) {
	s.forgiveUnread(now)
	if s.phase == phaseWaiting && now >= s.waitUntil {
		s.connect(now)
	}
	for _, l := range [...]*link{s.link, s.attempt} {
		if l == nil {
			continue
		}
		if err := l.judge(s.settings.reconnects && s.reads(), now); err != nil {
			s.handleEnd(l, err, now)
		} else if l.heartbeatDue(s.reads(), now, s.random()) {
			l.writing = true
			s.actions = append(s.actions, heartbeatAction{l.id})
		}
	}
	s.changeMode(now)
	s.move(now)
	s.release(now)
	s.wakeBy = s.nextTimer(now)
	s.wakeExact = s.settings.ahead && s.held.due(s.est, now) == s.wakeBy
}

// forgiveUnread does not blame the edge for what was not read, such as its ACK of a SUBSCRIBE.
func (s *subscription) forgiveUnread(now instant) {
	reads := s.reads()
	if l := s.link; l != nil && (!reads || !s.wasRead) {
		l.forgive(now)
		if l.answerBy != never {
			l.answerBy = now + l.waitedFor
		}
	}
	s.wasRead = reads
}

// drain handles the events in the bytes that a connection has brought.
func (s *subscription) drain(l *link, readAt, now instant) {
	for !l.ended {
		event, err := l.session.next(readAt, now)
		switch event := event.(type) {
		case nil:
			if err != nil {
				s.handleEnd(l, err, now)
			}
			return
		case authenticated:
			if event.cookie != nil {
				s.cookie = event.cookie
			}
			l.handleAuthenticated(event.welcome, len(s.settings.addresses) == 1, s.sparing, now)
		case subscribed:
			s.handleSubscribed(l, event, now)
		case ponged:
			l.est.handleExchange(event.exchange)
			if l.vitals != nil {
				l.vitals.handlePong(event.hasTime(), l.est, readAt)
			}
		case batch:
			if l.vitals != nil {
				l.vitals.handleTicks(event.ticks[len(event.ticks)-1].EpochMs, readAt)
			}
			s.handleBatch(event, readAt)
		case goingAway:
			s.handleGoingAway(l, event.within, now)
		}
	}
}

func (s *subscription) handleSubscribed(l *link, event subscribed, now instant) {
	first := !l.isSubscribed()
	l.start = event.start
	if len(l.session.requests) == 0 {
		l.answerBy = never
	}
	l.vitals = newVitals(event.request.mode, event.start, now)
	switch {
	case !first:
		s.start(event)
	case s.phase == phaseConnecting:
		s.handleConnected(l, event, now)
	default:
		s.arrive(l, event, now)
	}
}

// handleConnected records that the connection that was being made is subscribed.
func (s *subscription) handleConnected(l *link, event subscribed, now instant) {
	isFirst := s.first != nil
	s.link, s.attempt, s.first = l, nil, nil
	s.phase, s.mover, l.since = phaseSubscribed, newMover(), now
	s.addresses.handleSuccess(l.address)
	s.est.handleConnection()
	s.start(event)
	if !isFirst {
		s.emit(Reconnected{
			Address:      s.settings.addresses[l.address],
			EdgeID:       l.welcome.edgeID,
			ConnectionID: l.welcome.connectionID,
		})
	}
	if l.goingAwayAt != never {
		s.handleGoingAway(l, maxOf(l.goingAwayAt-now, 0), now)
	}
}

// start records where a subscription starts. If MINUTE is wanted meanwhile, its ticks also follow
// that point; SECOND starts at the present.
func (s *subscription) start(event subscribed) {
	resumes := event.request.resumeAfter != nil
	if event.request.mode == s.position.mode {
		s.position.handleStart(event.start, resumes)
		s.dropHeldMinutes()
		return
	}
	if old := s.positions[event.request.mode]; old != nil {
		old.handleStart(event.start, resumes)
	}
	if s.position.point == nil && s.position.mode == ModeMinute {
		s.position.handleStart(event.start, resumes)
	}
}

// end ends the subscription for good.
func (s *subscription) end(err error) {
	s.phase, s.err = phaseOver, err
	for _, l := range [...]*link{s.link, s.attempt} {
		if l != nil && !l.ended {
			s.close(l)
		}
	}
	s.link, s.attempt, s.rescue = nil, nil, nil
}
