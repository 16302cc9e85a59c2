package tickstorm

import (
	"io"
	"os"
	"sort"
	"testing"
	"time"

	"tickstorm.dev/client/internal/wire"
)

// monoStart is what the machine's clock shows when a simulation begins.
const monoStart = 1000 * time.Second

// sim runs a subscription in virtual time, over a network without delay. Its own time is that of
// the edges; the machine's clock stops while it is suspended.
type sim struct {
	t     *testing.T
	sub   *subscription
	now   time.Duration
	tasks []simTask
	// suspended is for how long the machine was suspended in all, until awakeAt if that is later
	// than now. inbox is what arrives meanwhile.
	suspended time.Duration
	asleep    bool
	inbox     []func()

	conns map[int]*simConn
	// onDial decides what an attempt to connect leads to.
	onDial func(*simConn)
	events []simEvent
	// lastEnd is when the last connection or attempt ended.
	lastEnd time.Duration
}

type simTask struct {
	at time.Duration
	do func()
}

type simEvent struct {
	at    time.Duration
	event Event
}

// simConn is a connection, or an attempt to make one.
type simConn struct {
	sim     *sim
	id      int
	address int
	dialled time.Duration
	// limit is that of dialAction, and ips how many IP addresses the name has.
	limit    time.Duration
	ips      int
	closedAt time.Duration
	isClosed bool
	reader   wire.Decoder
	// unread is what has arrived and was not read.
	unread []func()
	// onFrame is what the edge does with a frame.
	onFrame func(wire.Frame)
	onClose func()
}

func newSim(t *testing.T, s settings, random func() uint32) *sim {
	if s.addresses == nil {
		s.addresses = []string{"a"}
	}
	return &sim{t: t, sub: newSubscription(s, random), conns: map[int]*simConn{}}
}

func (s *sim) moment() moment {
	return moment{now: monoStart + s.now - s.suspended, suspended: s.suspended}
}

// at does something at a moment.
func (s *sim) at(at time.Duration, do func()) {
	s.tasks = append(s.tasks, simTask{at, do})
	sort.SliceStable(s.tasks, func(i, j int) bool { return s.tasks[i].at < s.tasks[j].at })
}

// after does something after a time.
func (s *sim) after(d time.Duration, do func()) { s.at(s.now+d, do) }

// suspend suspends the machine for a time.
func (s *sim) suspend(d time.Duration) { s.halt(d, d) }

// stall stops everything on the machine for a time, except its clock.
func (s *sim) stall(d time.Duration) { s.halt(d, 0) }

// halt stops everything on the machine for a time, and its clock for a part of it.
func (s *sim) halt(d, suspended time.Duration) {
	if d == 0 {
		return
	}
	s.asleep = true
	s.after(d, func() {
		s.suspended += suspended
		s.asleep = false
		for _, arrive := range s.inbox {
			arrive()
		}
		s.inbox = nil
	})
}

// client does something to the client, as soon as it is awake.
func (s *sim) client(do func()) {
	if s.asleep {
		s.inbox = append(s.inbox, do)
		return
	}
	do()
}

// run runs until a moment.
func (s *sim) run(until time.Duration) {
	for steps := 0; ; steps++ {
		if steps > 1_000_000 {
			s.t.Fatal("the simulation does not end")
		}
		s.perform()
		if s.readOn() {
			continue
		}
		next := until
		isTask := len(s.tasks) > 0 && s.tasks[0].at <= next
		if isTask {
			next = s.tasks[0].at
		}
		if !s.asleep {
			at, _ := s.sub.next()
			if wake := at - monoStart + s.suspended; wake < next {
				s.now = maxOf(s.now, wake)
				s.sub.handleTimer(s.moment())
				continue
			}
		}
		s.now = maxOf(s.now, next)
		if !isTask {
			return
		}
		task := s.tasks[0]
		s.tasks = s.tasks[1:]
		task.do()
	}
}

// readOn lets the client read what has arrived on the connection in use, and returns whether it
// did.
func (s *sim) readOn() bool {
	if l := s.sub.link; l != nil && !s.asleep {
		return s.conns[l.id].read()
	}
	return false
}

// perform performs the client's actions and takes its events.
func (s *sim) perform() {
	for {
		actions := s.sub.takeActions()
		for _, action := range actions {
			switch action := action.(type) {
			case dialAction:
				c := &simConn{sim: s, id: action.link, address: action.address, dialled: s.now,
					limit: action.limit, ips: 1}
				s.conns[c.id] = c
				s.onDial(c)
			case writeAction:
				s.write(action.link, action.bytes)
			case heartbeatAction:
				s.write(action.link, wire.AppendHeartbeat(nil, s.moment().now.Microseconds()))
			case closeAction:
				if c := s.conns[action.link]; c != nil && !c.isClosed {
					c.isClosed, c.closedAt, s.lastEnd = true, s.now, s.now
					if c.onClose != nil {
						c.onClose()
					}
				}
			}
		}
		for _, e := range s.sub.queue {
			s.events = append(s.events, simEvent{s.now, e})
		}
		s.sub.queue = nil
		if len(actions) == 0 {
			return
		}
	}
}

func (s *sim) write(id int, bytes []byte) {
	c := s.conns[id]
	if c == nil || c.isClosed {
		return
	}
	c.reader.Feed(bytes)
	for {
		frame, ok, err := c.reader.Next()
		if err != nil {
			s.t.Fatalf("the client wrote a bad frame: %v", err)
		}
		if !ok {
			break
		}
		if c.onFrame != nil {
			c.onFrame(frame)
		}
	}
	s.sub.handleWritten(s.moment(), id, nil)
}

// accept makes the connection.
func (c *simConn) accept() {
	c.sim.sub.handleDialled(c.sim.moment(), c.id, login{username: "u", password: "p"}, c.ips, nil)
}

// fail makes the attempt to connect fail.
func (c *simConn) fail() {
	c.sim.sub.handleDialled(c.sim.moment(), c.id, login{}, 0,
		&ConnectError{Address: "a", Err: io.ErrUnexpectedEOF})
}

// ignore leaves the attempt to connect unanswered until a driver gives it up.
func (c *simConn) ignore() {
	limit, err := connectTimeout, os.ErrDeadlineExceeded
	if c.limit > 0 && c.limit < limit {
		limit, err = c.limit, errCutOff
	}
	c.sim.after(limit, func() {
		c.sim.sub.handleDialled(c.sim.moment(), c.id, login{}, 0, &ConnectError{Address: "a", Err: err})
	})
}

// send sends bytes to the client.
func (c *simConn) send(bytes []byte) {
	c.arrive(func() {
		c.sim.sub.handleRead(c.sim.moment(), c.id, bytes, c.sim.moment().now)
	})
}

// close ends the connection without ERROR.
func (c *simConn) close(err error) {
	c.arrive(func() { c.sim.sub.handleClosed(c.sim.moment(), c.id, err) })
}

// arrive lets the client read something as soon as it reads.
func (c *simConn) arrive(read func()) {
	c.sim.client(func() {
		c.unread = append(c.unread, read)
		c.read()
	})
}

// read lets the client read what has arrived, and returns whether it did. A driver does not read
// the connection in use while the client does not want that.
func (c *simConn) read() bool {
	wasRead := false
	for len(c.unread) > 0 && !c.isClosed {
		if l := c.sim.sub.link; l != nil && l.id == c.id && !c.sim.sub.reads() {
			break
		}
		read := c.unread[0]
		c.unread = c.unread[1:]
		read()
		wasRead = true
	}
	return wasRead
}

// simEdge is an edge that behaves as the vectors describe it.
type simEdge struct {
	sim *sim
	// authority is authority time when the simulation begins, in milliseconds.
	authority int64
	edgeID    string
	minor     int64
	cookie    []byte
	// authDelay and subscribeDelay are how long the edge takes to answer; negative means that it
	// never does.
	authDelay, subscribeDelay time.Duration
	// refuses is how the edge answers AUTH or SUBSCRIBE instead; answers says which.
	refuses func(*simConn)
	answers wire.Type
	// start replaces start_epoch_ms in the ACK of SUBSCRIBE, if it is not nil.
	start func(resume *int64) int64
	// ticks and pongs are how it behaves at present: "on time", "ahead" or "none", and "with time",
	// "without time" or "none".
	ticks, pongs string
	// lead is how long before its time a tick is sent ahead.
	lead time.Duration
	// pongDelay is how long a PONG is under way.
	pongDelay time.Duration

	conn         *simConn
	auth         map[uint64][]byte
	resume       *int64
	mode         Mode
	ahead        bool
	subscribedAt time.Duration
	isSubscribed bool
	authenticAt  time.Duration
	isAuthentic  bool
	heartbeats   []time.Duration
	// last is the last tick that was sent, ackedMs the authority time of the ACK of SUBSCRIBE.
	last, startMs, ackedMs int64
	sent                   []int64
	// onSubscribe and onSubscribed are called when SUBSCRIBE has arrived and when it was answered.
	onSubscribe, onSubscribed func()
}

func newSimEdge(s *sim, authority int64) *simEdge {
	return &simEdge{sim: s, authority: authority, edgeID: "edge", minor: 1,
		ticks: "on time", pongs: "with time", lead: 800 * time.Millisecond}
}

func (e *simEdge) nowMs() int64 { return e.authority + e.sim.now.Milliseconds() }

// serve makes this the edge of a connection.
func (e *simEdge) serve(c *simConn) {
	e.conn = c
	c.onFrame = e.handleFrame
	c.accept()
}

func (e *simEdge) handleFrame(frame wire.Frame) {
	switch frame.Type {
	case wire.TypeAuth:
		e.handleAuth(frame.Payload)
	case wire.TypeSubscribe:
		e.handleSubscribe(frame.Payload)
	case wire.TypeHeartbeat:
		e.heartbeats = append(e.heartbeats, e.sim.now)
		t1Us := int64(0)
		for number, value := range numbers(frame.Payload) {
			if number == 1 {
				t1Us = int64(value)
			}
		}
		var pong []byte
		switch e.pongs {
		case "with time":
			pong = pongFrame(t1Us, e.authority*1000+e.sim.now.Microseconds(), 10)
		case "without time":
			pong = pongFrame(t1Us, 0, 1<<32-1)
		default:
			return
		}
		if e.pongDelay > 0 {
			e.sim.after(e.pongDelay, func() { e.conn.send(pong) })
			return
		}
		e.conn.send(pong)
	}
}

func (e *simEdge) handleAuth(payload []byte) {
	e.auth = texts(payload)
	if e.answers == wire.TypeAuth {
		e.sim.after(0, func() { e.refuses(e.conn) })
		return
	}
	if e.authDelay < 0 {
		return
	}
	e.sim.after(e.authDelay, func() {
		e.isAuthentic, e.authenticAt = true, e.sim.now
		e.conn.send(ackOfAuth(e.edgeID, e.minor, e.cookie))
	})
}

func (e *simEdge) handleSubscribe(payload []byte) {
	var mode Mode
	var resume *int64
	ahead := false
	for number, value := range numbers(payload) {
		switch number {
		case 1:
			mode = Mode(value)
		case 5:
			point := int64(value)
			resume = &point
		case 6:
			ahead = value != 0
		}
	}
	e.resume = resume
	if e.onSubscribe != nil {
		e.onSubscribe()
	}
	if e.answers == wire.TypeSubscribe {
		e.sim.after(0, func() { e.refuses(e.conn) })
		return
	}
	if e.subscribeDelay < 0 || e.authDelay < 0 {
		return
	}
	e.sim.after(e.authDelay+e.subscribeDelay, func() { e.acknowledge(mode, resume, ahead) })
}

func (e *simEdge) acknowledge(mode Mode, resume *int64, ahead bool) {
	if e.conn.isClosed {
		return
	}
	e.mode, e.ahead = mode, ahead
	e.ackedMs = e.nowMs()
	e.startMs = mode.nextAfter(e.ackedMs) - mode.periodMs()
	if resume != nil {
		e.startMs = *resume
	}
	if e.start != nil {
		e.startMs = e.start(resume)
	}
	e.last = e.startMs
	e.isSubscribed, e.subscribedAt = true, e.sim.now
	e.conn.send(ackOfSubscribe(e.startMs))
	if e.onSubscribed != nil {
		e.onSubscribed()
	}
	e.flush()
	e.plan(e.last)
}

// plan sends the ticks after one at their times.
func (e *simEdge) plan(after int64) {
	next := e.mode.nextAfter(after)
	at := ms(float64(next - e.authority))
	if e.ticks == "ahead" || e.ahead {
		at -= e.lead
	}
	e.sim.at(maxOf(at, e.sim.now+time.Millisecond), func() {
		if e.conn.isClosed || e.nowMs() < next-e.lead.Milliseconds() {
			return
		}
		e.flush()
		e.plan(next)
	})
}

// flush sends all ticks that are due.
func (e *simEdge) flush() {
	if e.ticks == "none" || !e.isSubscribed || e.conn.isClosed {
		return
	}
	until := e.nowMs()
	if e.ahead {
		until += e.lead.Milliseconds()
	}
	var due []wire.Tick
	for next := e.mode.nextAfter(e.last); next <= until; next = e.mode.nextAfter(next) {
		tick := wire.Tick{Mode: int32(e.mode), EpochMs: next}
		if next < e.nowMs()-1000 || e.resume != nil && next <= e.ackedMs {
			tick.Quality = int32(QualityReplay)
		}
		due = append(due, tick)
		e.last = next
		e.sent = append(e.sent, next)
	}
	if len(due) > 0 {
		e.conn.send(batchFrame(1, due...))
	}
}

// numbers returns the numeric fields of a message that the client wrote.
func numbers(payload []byte) map[uint64]uint64 {
	fields, _ := parse(payload)
	return fields
}

// texts returns the texts of a message that the client wrote.
func texts(payload []byte) map[uint64][]byte {
	_, fields := parse(payload)
	return fields
}

func parse(payload []byte) (map[uint64]uint64, map[uint64][]byte) {
	numbers, texts := map[uint64]uint64{}, map[uint64][]byte{}
	for len(payload) > 0 {
		tag, rest := varint(payload)
		value, rest := varint(rest)
		if tag&7 == 0 {
			numbers[tag>>3] = value
		} else {
			texts[tag>>3] = rest[:value]
			rest = rest[value:]
		}
		payload = rest
	}
	return numbers, texts
}

func varint(b []byte) (uint64, []byte) {
	value := uint64(0)
	for i, n := range b {
		value |= uint64(n&0x7f) << (7 * i)
		if n < 0x80 {
			return value, b[i+1:]
		}
	}
	return value, nil
}

// ticks returns the ticks that the client handed out.
func (s *sim) ticks() []Tick {
	var ticks []Tick
	for _, e := range s.events {
		if tick, ok := e.event.(Tick); ok {
			ticks = append(ticks, tick)
		}
	}
	return ticks
}

// checkContinuity checks that the client handed out each tick once, in order, without a gap, except
// after the resume point was left out.
func (s *sim) checkContinuity() {
	s.t.Helper()
	var last *Tick
	for _, e := range s.events {
		switch e := e.event.(type) {
		case Tick:
			if last != nil && (e.Mode != last.Mode || e.EpochMs != last.Mode.nextAfter(last.EpochMs)) {
				s.t.Errorf("%v follows %v", e, last)
			}
			tick := e
			last = &tick
		case Gap:
			if last != nil {
				s.t.Errorf("a gap from %d to %d", e.AfterEpochMs, e.BeforeEpochMs)
			}
		case Reconnecting:
			if !e.Resumes {
				last = nil
			}
		}
	}
}
