package tickstorm

import (
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
	h := newHeartbeats(15*time.Second, false, 0)
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
		if n > 200 {
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
