package tickstorm

import (
	"time"

	"tickstorm.dev/client/internal/wire"
)

const (
	// authTimeout is how long the answer to AUTH may take. An edge may delay it by 8 s, if others
	// have guessed passwords.
	authTimeout = 10 * time.Second
	// subscribeTimeout is how long an edge that answers HEARTBEATs may leave SUBSCRIBE unanswered.
	// One that does not know the time answers NO_TIME after 5 s.
	subscribeTimeout = 8 * time.Second
	// noTimeSinceMinor is the minor revision of the protocol since which edges answer NO_TIME.
	noTimeSinceMinor = 1
	// silenceMin is the shortest silence after which an edge is left.
	silenceMin = 5 * time.Second
	// stallMin is how late a timer must fire for the edge not to be blamed for the silence.
	stallMin = 500 * time.Millisecond
	// freezeMin is how late a timer must fire for this machine's time to be doubted.
	freezeMin = 2 * time.Second
	// turnMax is the longest wait. It bounds how long it takes to notice a suspension.
	turnMax = time.Second

	// rateAssumed is the frame rate of an edge that does not say, and burstMin the burst that every
	// edge accepts.
	rateAssumed = 10
	burstMin    = 20
	// burstSaved is for how long an edge saves up the frames that a client does not send.
	burstSaved = 30 * time.Second
)

// link is one connection to an edge, from the first attempt to make it to its end.
type link struct {
	id      int
	address int
	session session
	// est is the subscription's estimator or, during a move, one of this connection's own.
	est     *estimator
	welcome welcome
	// vitals is nil until the edge has acknowledged the subscription.
	vitals *vitals
	start  int64
	// since is when the subscription was made that this connection continues.
	since instant

	dialling bool
	// ended says that the connection is closed, and that an attempt to move may replace it.
	ended bool
	// writing says that a frame is being written. It is as good a sign of life as a HEARTBEAT, so
	// none is added to it.
	writing bool
	// queued are frames to be written after it.
	queued     [][]byte
	unwritable error

	heardAt    instant
	silenceMax time.Duration
	// answerBy is when the ACK of AUTH or of SUBSCRIBE must have arrived.
	answerBy  instant
	waitedFor time.Duration
	// goingAwayAt is when the edge closes the connection, if it said so before the subscription.
	goingAwayAt instant

	frames frameBudget
}

// frameBudget is the number of frames that the edge accepts at present.
type frameBudget struct {
	perSecond, burst, left float64
	at                     instant
}

func newFrameBudget(w *welcome, sparing bool, now instant) frameBudget {
	rate := float64(w.frameRateLimit)
	if rate == 0 {
		rate = rateAssumed
	}
	burst := rate * minOf(w.heartbeatTimeout, burstSaved).Seconds()
	if w.frameRateLimit == 0 || burst < burstMin {
		burst = burstMin
	}
	if sparing {
		rate, burst = 1, burstMin
	}
	// The SUBSCRIBE was sent together with AUTH.
	return frameBudget{perSecond: rate, burst: burst, left: burst - subscribeFrames, at: now}
}

// take takes frames out of the budget.
func (b *frameBudget) take(frames float64, now instant) {
	b.refill(now)
	b.left -= frames
}

func (b *frameBudget) refill(now instant) {
	b.left += b.perSecond * (now - b.at).Seconds()
	if b.left > b.burst {
		b.left = b.burst
	}
	b.at = now
}

// ready returns when there are this many frames.
func (b *frameBudget) ready(frames float64, now instant) instant {
	b.refill(now)
	if b.left >= frames {
		return now
	}
	return now + time.Duration((frames-b.left)/b.perSecond*float64(time.Second)) + 1
}

// isSubscribed returns whether the edge has acknowledged a subscription.
func (l *link) isSubscribed() bool { return l.vitals != nil }

// handleAuthenticated begins to wait for the ACK of SUBSCRIBE.
func (l *link) handleAuthenticated(w welcome, isOnlyAddress, sparing bool, now instant) {
	l.welcome = w
	l.silenceMax = maxOf(w.heartbeatTimeout, silenceMin)
	l.frames = newFrameBudget(&w, sparing, now)
	l.answerBy, l.waitedFor = now+subscribeTimeout, subscribeTimeout
	if isOnlyAddress && w.protocolMinor < noTimeSinceMinor {
		l.answerBy = never
	}
}

// forgive judges the edge only by what it does afterwards.
func (l *link) forgive(now instant) {
	l.heardAt = maxOf(l.heardAt, now)
	if l.vitals != nil {
		l.vitals.forgive(now)
	}
}

// judge returns why to leave the edge, or nil. Whether it is of use is only judged if the client
// may make another connection.
func (l *link) judge(judgesUse bool, now instant) failure {
	switch {
	case l.dialling || l.ended:
		return nil
	case now >= l.answerBy && l.session.beats == nil:
		return &TimeoutError{Missing: "answer to AUTH", After: l.waitedFor, isAuth: true}
	case now >= l.answerBy:
		return &NoTimeError{After: l.waitedFor}
	case l.silenceMax > 0 && now >= l.heardAt+l.silenceMax:
		return &TimeoutError{Missing: "bytes", After: l.silenceMax}
	case judgesUse && l.vitals != nil:
		return l.vitals.judge(l.est, now)
	}
	return nil
}

// nextChange returns when judge or heartbeatDue may next have another result.
func (l *link) nextChange(judgesUse bool, now instant) instant {
	if l.dialling || l.ended {
		return never
	}
	next := l.answerBy
	if l.silenceMax > 0 {
		next = minOf(next, l.heardAt+l.silenceMax)
	}
	if !l.writing && l.unwritable == nil {
		next = minOf(next, l.session.nextHeartbeat())
	}
	if judgesUse && l.vitals != nil {
		next = minOf(next, l.vitals.nextChange(l.est, now))
	}
	return next
}

// heartbeatDue returns whether to send a HEARTBEAT now, and records that it is sent.
func (l *link) heartbeatDue(reads bool, now instant, random uint32) bool {
	if l.dialling || l.ended || l.session.beats == nil || l.session.refused {
		return false
	}
	asks := l.vitals != nil && reads
	if asks && l.vitals.wantsAnswer(l.est, now) {
		l.session.beats.hasten(now)
	}
	if l.writing || l.unwritable != nil || l.session.nextHeartbeat() > now {
		return false
	}
	if asks {
		l.vitals.handleHeartbeat(l.est, now)
	}
	l.session.handleHeartbeat(now, random)
	l.frames.take(1, now)
	return true
}

// auth returns the AUTH message for these credentials.
func auth(login login, clientID string, cookie []byte) *wire.Auth {
	return &wire.Auth{
		Username:      login.username,
		Password:      login.password,
		Token:         login.token,
		ClientID:      clientID,
		ClientVersion: clientVersionPrefix + Version,
		Cookie:        cookie,
	}
}
