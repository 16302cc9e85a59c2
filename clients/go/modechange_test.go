package tickstorm

import (
	"io"
	"testing"
	"time"
)

// modeSim is a subscription to an edge that is on time.
func modeSim(t *testing.T, ahead bool, addresses ...string) (*sim, func() *simEdge) {
	s := newSim(t, settings{addresses: addresses, ahead: ahead, reconnects: true, moves: true},
		constant(1<<31))
	var edges []*simEdge
	s.onDial = func(c *simConn) {
		e := newSimEdge(s, 1_800_000_050_250)
		e.edgeID = []string{"a", "b", "c", "d"}[len(edges)]
		edges = append(edges, e)
		e.serve(c)
	}
	s.sub.begin(s.moment())
	return s, func() *simEdge { return edges[len(edges)-1] }
}

// checkModes checks that the ticks of each mode come once, in order and without a gap between the
// changes.
func checkModes(t *testing.T, s *sim) {
	t.Helper()
	last := map[Mode]int64{}
	mode := Mode(-1)
	for _, tick := range s.ticks() {
		before, seen := last[tick.Mode]
		switch {
		case seen && tick.EpochMs <= before:
			t.Errorf("%v follows %d", tick, before)
		case mode == tick.Mode && tick.EpochMs != tick.Mode.nextAfter(before):
			t.Errorf("%v follows %d", tick, before)
		}
		last[tick.Mode], mode = tick.EpochMs, tick.Mode
	}
	for _, e := range s.events {
		if gap, ok := e.event.(Gap); ok {
			t.Errorf("%+v", gap)
		}
	}
}

func (s *sim) setMode(mode Mode) { s.sub.setMode(s.moment(), mode) }

func TestAModeChangeLosesAndRepeatsNothing(t *testing.T) {
	for _, ahead := range []bool{false, true} {
		// The change comes at any moment around the start of a minute, which is at 9.75 s.
		for at := 8 * time.Second; at < 11*time.Second; at += 37 * time.Millisecond {
			s, _ := modeSim(t, ahead, "a")
			s.run(at)
			s.setMode(ModeMinute)
			s.run(75 * time.Second)
			s.setMode(ModeSecond)
			s.run(80 * time.Second)
			checkModes(t, s)
			minutes, seconds := 0, 0
			firstSecondAfter := int64(0)
			for _, tick := range s.ticks() {
				if tick.Mode == ModeMinute {
					minutes++
				} else if minutes > 0 {
					seconds++
					if firstSecondAfter == 0 {
						firstSecondAfter = tick.EpochMs
					}
				}
			}
			// Each of the minutes at 9.75 s and 69.75 s comes in one mode or in both.
			if minutes < 1 || minutes > 2 {
				t.Errorf("at %v: %d minutes", at, minutes)
			}
			// The minute of seconds before the change is not replayed.
			if seconds < 4 || seconds > 6 {
				t.Errorf("at %v: %d seconds after the change, from %d", at, seconds, firstSecondAfter)
			}
		}
	}
}

func TestChangingTheModeBackAtOnceRepeatsNothing(t *testing.T) {
	for at := 5 * time.Second; at < 6*time.Second; at += 13 * time.Millisecond {
		s, edge := modeSim(t, true, "a")
		s.run(at)
		s.setMode(ModeMinute)
		s.setMode(ModeSecond)
		s.setMode(ModeMinute)
		s.run(at + 100*time.Millisecond)
		s.setMode(ModeSecond)
		s.run(20 * time.Second)
		s.checkContinuity()
		if n := len(s.ticks()); n != 20 {
			t.Errorf("at %v: %d ticks", at, n)
		}
		if edge().mode != ModeSecond {
			t.Errorf("the mode is %v", edge().mode)
		}
	}
}

func TestAModeChangeDuringAReconnectAsksForTheNewMode(t *testing.T) {
	s, edge := modeSim(t, false, "a")
	s.run(5 * time.Second)
	edge().conn.close(io.EOF)
	s.setMode(ModeMinute)
	s.run(80 * time.Second)
	checkModes(t, s)
	if e := edge(); e.mode != ModeMinute || e.edgeID != "b" || e.resume == nil {
		t.Errorf("%v at %s", e.mode, e.edgeID)
	}
}

func TestAModeChangeDuringAMoveMovesInTheNewMode(t *testing.T) {
	s, edge := modeSim(t, false, "a", "b")
	s.run(5 * time.Second)
	first := edge()
	first.conn.send(goingAwayFrame(20_000))
	s.run(5100 * time.Millisecond)
	s.setMode(ModeMinute)
	s.run(100 * time.Second)
	checkModes(t, s)
	if !first.conn.isClosed || edge().mode != ModeMinute || edge().edgeID == "a" {
		t.Errorf("%v at %s", edge().mode, edge().edgeID)
	}
}

func TestModeChangesKeepToTheFrameRate(t *testing.T) {
	budget := newFrameBudget(&welcome{frameRateLimit: 1, heartbeatTimeout: 20 * time.Second}, false, 0)
	at := budget.ready(subscribeFrames+1, 0)
	if at < 900*time.Millisecond || at > 1100*time.Millisecond {
		t.Errorf("a second SUBSCRIBE after %v", at)
	}
	budget = newFrameBudget(&welcome{frameRateLimit: 10, heartbeatTimeout: 20 * time.Second}, false, 0)
	for n := 0; n < 18; n++ {
		if at := budget.ready(subscribeFrames+1, 0); at != 0 {
			t.Fatalf("SUBSCRIBE %d after %v", n, at)
		}
		budget.take(subscribeFrames, 0)
	}
	if at := budget.ready(subscribeFrames+1, 0); at == 0 {
		t.Error("more SUBSCRIBEs than an edge accepts")
	}
}
