package tickstorm

import (
	"errors"
	"io"
	"math/rand"
	"strings"
	"testing"
	"time"

	"tickstorm.dev/client/internal/wire"
)

// steadySim is a subscription to SECOND at an edge that is on time.
func steadySim(t *testing.T, settings settings) (*sim, *simEdge) {
	settings.reconnects, settings.moves = true, true
	s := newSim(t, settings, constant(1<<31))
	edge := newSimEdge(s, 1_800_000_000_250)
	first := true
	s.onDial = func(c *simConn) {
		if first {
			edge.serve(c)
		}
		first = false
	}
	s.sub.begin(s.moment())
	return s, edge
}

func TestAnEdgeIsNotBlamedForWhatWasNotRead(t *testing.T) {
	s, edge := steadySim(t, settings{})
	s.run(5 * time.Second)
	// The reader is slow, so the queue stays full, and nothing is read for a minute.
	full := make([]Event, queueMax)
	for i := range full {
		full[i] = Gap{}
	}
	edge.ticks, edge.pongs = "none", "none"
	for end := s.now + time.Minute; s.now < end; {
		s.sub.queue = full
		s.sub.handleTimer(s.moment())
		s.now += 100 * time.Millisecond
	}
	if edge.conn.isClosed || s.sub.link == nil {
		t.Fatal("the edge was left")
	}
	s.sub.queue = nil
	s.sub.handleTimer(s.moment())
	edge.ticks, edge.pongs = "on time", "with time"
	edge.flush()
	s.run(s.now + 30*time.Second)
	if edge.conn.isClosed {
		t.Fatal("the edge was left afterwards")
	}
	s.checkContinuity()
}

func TestAStallVoidsTheSamples(t *testing.T) {
	for _, c := range []struct {
		late time.Duration
		void bool
	}{{1900 * time.Millisecond, false}, {2100 * time.Millisecond, true}} {
		s, edge := steadySim(t, settings{ahead: true})
		s.run(10500 * time.Millisecond)
		// The machine's timers fire late, but its clock runs on.
		at, _ := s.sub.next()
		s.now = at - monoStart + c.late
		edge.pongs = "none"
		s.sub.handleTimer(s.moment())
		s.perform()
		if _, knows := s.sub.est.estimate(s.moment().now); knows == c.void {
			t.Errorf("%v late: the time is known: %v", c.late, knows)
		}
		edge.pongs = "with time"
		s.run(30 * time.Second)
		s.checkContinuity()
		if edge.conn.isClosed {
			t.Errorf("%v late: the edge was left", c.late)
		}
	}
}

func TestPongsFromBeforeASuspensionAreNoSamples(t *testing.T) {
	var e estimator
	e.handleSuspended(0, 0)
	e.handleExchange(exchange{t1Us: 1, t2Us: 1_000, t3Us: 1_000, t4: 2 * time.Microsecond})
	if !e.handleSuspended(10*time.Microsecond, 10*time.Millisecond) {
		t.Fatal("10 ms are a suspension")
	}
	e.handleExchange(exchange{t1Us: 5, t2Us: 1_000, t3Us: 1_000, t4: 12 * time.Microsecond})
	if _, knows := e.estimate(12 * time.Microsecond); knows {
		t.Error("the PONG to an earlier HEARTBEAT is a sample")
	}
	if e.handleSuspended(20*time.Microsecond, 19*time.Millisecond) {
		t.Error("9 ms are no suspension")
	}
	e.handleExchange(exchange{t1Us: 20, t2Us: 1_000, t3Us: 1_000, t4: 22 * time.Microsecond})
	if _, knows := e.estimate(22 * time.Microsecond); !knows {
		t.Error("the PONG to a later HEARTBEAT is no sample")
	}
}

func TestAStalePongDoesNotSlowDownHeartbeats(t *testing.T) {
	h := newHeartbeats(15*time.Second, 0, false, 0)
	for h.openingLeft > 0 {
		h.handleSent(h.next, false, 0)
	}
	h.handlePong(true, h.last)
	h.sampleAgain(5 * time.Second)
	if h.next != 5*time.Second {
		t.Fatalf("the next HEARTBEAT is at %v", h.next)
	}
	h.handlePong(true, 4*time.Second)
	if h.next != 5*time.Second {
		t.Errorf("after a PONG from before, it is at %v", h.next)
	}
}

func TestHeartbeatsKeepToTheFrameRate(t *testing.T) {
	for _, c := range []struct {
		interval       time.Duration
		rate           uint32
		exact, hasTime bool
		// least is the shortest time between two HEARTBEATs.
		least time.Duration
	}{
		{500 * time.Millisecond, 0, false, true, 300 * time.Millisecond},
		{500 * time.Millisecond, 1, false, true, 1200 * time.Millisecond},
		{500 * time.Millisecond, 2, false, true, 600 * time.Millisecond},
		{15 * time.Second, 1, false, true, 9 * time.Second},
		{15 * time.Second, 1, true, true, 1800 * time.Millisecond},
		{15 * time.Second, 1, false, false, 1200 * time.Millisecond},
		{15 * time.Second, 10, false, false, 900 * time.Millisecond},
	} {
		for random := uint32(0); random < 21; random++ {
			h := newHeartbeats(c.interval, c.rate, false, 0)
			for h.openingLeft > 0 {
				h.handleSent(h.next, c.exact, random)
				h.handlePong(c.hasTime, h.last)
			}
			for n := 0; n < 20; n++ {
				h.handleSent(h.next, c.exact, random)
				h.handlePong(c.hasTime, h.last)
				// An edge whose tick is late is asked often.
				if !c.hasTime {
					h.hasten(h.last)
				}
				if apart := h.next - h.last; apart < c.least {
					t.Fatalf("%+v: HEARTBEATs %v apart (random %d)", c, apart, random)
				}
			}
		}
	}
}

func TestTheFrameRateInTheAckLimitsHeartbeats(t *testing.T) {
	p := wire.AppendNumber(nil, 1, int64(wire.TypeAuth))
	p = wire.AppendNumber(p, 2, 500)
	p = wire.AppendNumber(p, 8, 1)
	var s session
	s.feed(wire.AppendFrame(nil, wire.TypeAck, p))
	if _, err := s.next(0, 0); err != nil {
		t.Fatal(err)
	}
	if s.beats.interval != framesInterval {
		t.Errorf("the interval is %v", s.beats.interval)
	}
}

func TestReplayedTicksReleaseTheTicksBeforeThem(t *testing.T) {
	var h held
	est := &estimator{}
	h.push(Tick{EpochMs: 1000})
	if h.due(est, 0) != never {
		t.Error("a tick is due although the time is not known")
	}
	h.push(Tick{EpochMs: 2000, Quality: QualityReplay})
	h.push(Tick{EpochMs: 3000})
	for _, want := range []int64{1000, 2000} {
		if e, ok := h.pop(est, 0); !ok || e.(Tick).EpochMs != want {
			t.Errorf("%v, but expected %d", e, want)
		}
	}
	if h.due(est, 0) != never {
		t.Error("a tick after the replayed ones is due although the time is not known")
	}
	// After a step, ticks of the past come again.
	h.dropTicks()
	h.push(Tick{EpochMs: 1000})
	if h.due(est, 0) != never {
		t.Error("a tick is due because of what was replayed before a step")
	}
}

func TestTicksContinueAfterALongSuspension(t *testing.T) {
	for _, c := range []struct {
		name string
		// lasts is how long the edge keeps the connection meanwhile.
		lasts time.Duration
	}{
		{"the edge closes the connection, and the ticks are replayed", 20 * time.Second},
		{"all ticks are waiting in the connection", time.Hour},
	} {
		s := newSim(t, settings{ahead: true, reconnects: true, moves: true}, constant(1<<31))
		var edge *simEdge
		s.onDial = func(conn *simConn) {
			edge = newSimEdge(s, 1_800_000_050_250)
			edge.pongDelay = 2 * time.Millisecond
			edge.serve(conn)
		}
		s.sub.begin(s.moment())
		s.run(20500 * time.Millisecond)
		first := edge
		s.suspend(3 * time.Minute)
		s.after(c.lasts, func() {
			first.ticks = "none"
			first.conn.close(io.EOF)
		})
		s.run(260 * time.Second)
		s.checkContinuity()
		ticks := s.ticks()
		if last := ticks[len(ticks)-1].EpochMs; last < edge.nowMs()-1000 {
			t.Errorf("%s: at %d, the last tick is %d", c.name, edge.nowMs(), last)
		}
	}
}

func TestTheEndOfAConnectionIsExplainedAsWellAsPossible(t *testing.T) {
	broken, reset := errors.New("broken pipe"), errors.New("connection reset")
	for _, c := range []struct{ written, read, want error }{
		{nil, io.EOF, io.EOF}, {broken, io.EOF, broken}, {broken, reset, reset}, {nil, reset, reset},
	} {
		s, edge := steadySim(t, settings{addresses: []string{"first", "second"}})
		s.run(5 * time.Second)
		s.sub.handleWritten(s.moment(), edge.conn.id, c.written)
		edge.conn.close(c.read)
		s.perform()
		last, ok := s.events[len(s.events)-1].event.(Reconnecting)
		if !ok || !errors.Is(last.Err, c.want) || last.Address != "first" {
			t.Errorf("%v, %v: %+v", c.written, c.read, last)
		}
		// The second address does not answer.
		s.run(10 * time.Second)
		s.conns[edge.conn.id+1].fail()
		s.perform()
		if last, ok = s.events[len(s.events)-1].event.(Reconnecting); !ok || last.Address != "second" {
			t.Errorf("%+v", last)
		}
	}
}

func TestTicksHeldAreReleasedAfterTheEndOfASubscription(t *testing.T) {
	s := newSim(t, settings{ahead: true}, constant(0))
	edge := newSimEdge(s, 1_800_000_000_250)
	s.onDial = edge.serve
	s.sub.begin(s.moment())
	s.run(5400 * time.Millisecond)
	edge.conn.send(errorFrame("INTERNAL", 0))
	s.run(10 * time.Second)
	last := s.events[len(s.events)-1]
	if tick, ok := last.event.(Tick); !ok || tick.EpochMs != 1_800_000_006_000 ||
		last.at < 5750*time.Millisecond || last.at > 5770*time.Millisecond {
		t.Errorf("%v at %v", last.event, last.at)
	}
	if !s.sub.isOver() {
		t.Error("the subscription is not over")
	}
}

func TestTicksHeldWithoutEverKnowingTheTimeAreDroppedAtTheEnd(t *testing.T) {
	s := newSim(t, settings{ahead: true}, constant(0))
	edge := newSimEdge(s, 1_800_000_000_250)
	edge.pongs = "without time"
	s.onDial = edge.serve
	s.sub.begin(s.moment())
	s.run(4 * time.Second)
	edge.conn.send(errorFrame("INTERNAL", 0))
	s.run(10 * time.Second)
	if n := len(s.ticks()); n != 0 || !s.sub.isOver() {
		t.Errorf("%d ticks; over: %v", n, s.sub.isOver())
	}
}

func TestTheEdgeIsNotReadWhileTooManyTicksAreHeld(t *testing.T) {
	s, edge := steadySim(t, settings{ahead: true})
	edge.pongs = "without time"
	s.run(2 * time.Second)
	for n := int64(10); s.sub.reads(); n++ {
		if n > 2*queueMax {
			t.Fatal("the ticks that are held have no bound")
		}
		edge.conn.send(batchFrame(1, wire.Tick{EpochMs: 1_800_000_000_000 + n*1000}))
	}
}

// An edge may send anything. The client must not panic, and what it hands out must keep the
// promises.
func FuzzSubscription(f *testing.F) {
	opening := append(ackOfAuth("e", 1, nil), ackOfSubscribe(liveStart)...)
	ticks := append(append([]byte{}, opening...), batchFrame(1,
		wire.Tick{EpochMs: liveStart + 1000}, wire.Tick{EpochMs: liveStart + 2000, Quality: 2})...)
	f.Add(opening, uint32(0), false)
	f.Add(ticks, uint32(7), true)
	f.Add(append(ticks, goingAwayFrame(500)...), uint32(9), true)
	f.Add(append(opening, pongFrame(1_000_000_000, liveStart*1000, 10)...), uint32(3), true)
	f.Add(append(opening, errorFrame("TIME_STEPPED", 4)...), uint32(1), false)
	f.Fuzz(func(t *testing.T, bytes []byte, seed uint32, ahead bool) {
		source := rand.New(rand.NewSource(int64(seed)))
		s := newSim(t, settings{addresses: []string{"a", "b"}, ahead: ahead, reconnects: true,
			moves: true}, source.Uint32)
		s.onDial = func(c *simConn) {
			c.accept()
			for rest := bytes; len(rest) > 0; {
				n := 1 + source.Intn(len(rest))
				piece := rest[:n]
				s.after(time.Duration(source.Intn(1000))*time.Millisecond, func() { c.send(piece) })
				rest = rest[n:]
			}
		}
		s.sub.begin(s.moment())
		s.run(30 * time.Second)
		var last int64
		for _, e := range s.events {
			switch e := e.event.(type) {
			case Tick:
				if e.EpochMs <= last && last != 0 {
					t.Fatalf("%v follows %d", e, last)
				}
				last = e.EpochMs
			case Reconnecting:
				if !e.Resumes {
					last = 0
				}
				if strings.Contains(e.Err.Error(), "\x1b") {
					t.Fatalf("an error can control a terminal: %q", e.Err)
				}
			}
		}
	})
}
