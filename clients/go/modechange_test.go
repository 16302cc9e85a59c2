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

// checkNoRepetition checks that the ticks of each mode come in order and once.
func (s *sim) checkNoRepetition() {
	s.t.Helper()
	last := map[Mode]int64{}
	for _, tick := range s.ticks() {
		if tick.EpochMs <= last[tick.Mode] {
			s.t.Errorf("%v follows %d", tick, last[tick.Mode])
		}
		last[tick.Mode] = tick.EpochMs
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

func TestAMinuteThatHasBegunIsNotLostByAModeChange(t *testing.T) {
	// The minute begins at 9.75 s. Its tick is late when the mode changes, so the SECOND tick of the
	// same moment takes its place.
	const minute, begins = 1_800_000_060_000, 9750 * time.Millisecond
	for _, ahead := range []bool{false, true} {
		for _, late := range []time.Duration{
			0, time.Millisecond, 2 * time.Millisecond, 400 * time.Millisecond,
			1300 * time.Millisecond, 3 * time.Second,
		} {
			s, edge := modeSim(t, ahead, "a")
			s.run(5 * time.Second)
			s.setMode(ModeMinute)
			s.run(8 * time.Second)
			edge().ticks = "none"
			s.run(begins + late)
			s.setMode(ModeSecond)
			edge().ticks = "on time"
			s.run(15 * time.Second)
			if r := edge().resume; r == nil || *r < minute-10 || *r >= minute {
				t.Errorf("ahead %v, %v late: resumes after %s", ahead, late, shown(r))
			}
			s.checkNoRepetition()
			var after []Tick
			for _, tick := range s.ticks() {
				if tick.EpochMs >= minute {
					after = append(after, tick)
				}
			}
			for n, tick := range after {
				if tick.Mode != ModeSecond || tick.EpochMs != minute+1000*int64(n) {
					t.Errorf("ahead %v, %v late: %v", ahead, late, after)
					break
				}
			}
			if len(after) != 6 {
				t.Errorf("ahead %v, %v late: %d ticks", ahead, late, len(after))
			}
		}
	}
}

func TestWithoutTheTimeSecondsStartAtTheEdgesPresentAndAreNotRepeated(t *testing.T) {
	for _, c := range []struct {
		// start is where the edge starts, after its present if it is 0.
		start, first int64
	}{
		{0, 1_800_000_058_000},
		// The last SECOND tick that was received is that of 55 s.
		{1_800_000_053_000, 1_800_000_056_000},
	} {
		s, edge := modeSim(t, false, "a")
		s.perform()
		edge().pongs = "without time"
		s.run(5100 * time.Millisecond)
		s.setMode(ModeMinute)
		s.run(7100 * time.Millisecond)
		before := len(s.ticks())
		if c.start != 0 {
			edge().start = func(*int64) int64 { return c.start }
		}
		s.setMode(ModeSecond)
		s.run(9 * time.Second)
		ticks := s.ticks()
		if edge().resume != nil || len(ticks) == before || ticks[before].EpochMs != c.first {
			t.Errorf("start %d: resumes after %s: %v", c.start, shown(edge().resume), ticks[before:])
		}
		s.checkNoRepetition()
	}
}

func TestChangingBackWithoutTheTimeKeepsTheResumePoint(t *testing.T) {
	s, edge := modeSim(t, false, "a")
	s.perform()
	edge().pongs = "without time"
	s.run(4 * time.Second)
	s.setMode(ModeMinute)
	s.run(4100 * time.Millisecond)
	want := *s.sub.position.point
	s.setMode(ModeSecond)
	if s.sub.position.point != nil {
		t.Errorf("seconds are requested after %s", shown(s.sub.position.point))
	}
	s.setMode(ModeMinute)
	if got := s.sub.position.point; got == nil || *got != want {
		t.Errorf("minutes are requested after %s, but expected %d", shown(got), want)
	}
}

func TestSecondsTakeThePlaceOfMinutesThatAreHeld(t *testing.T) {
	s, edge := modeSim(t, true, "a")
	s.perform()
	edge().lead = 5 * time.Second
	s.run(time.Second)
	s.setMode(ModeMinute)
	// The minute begins at 9.75 s; its tick arrives at 4.75 s.
	s.run(8 * time.Second)
	if len(s.sub.held.events) == 0 {
		t.Fatal("no MINUTE tick is held")
	}
	s.setMode(ModeSecond)
	s.run(15 * time.Second)
	s.checkNoRepetition()
	next := int64(1_800_000_059_000)
	for _, e := range s.events {
		tick, ok := e.event.(Tick)
		if !ok || e.at < 8*time.Second {
			continue
		}
		late := edge().authority + e.at.Milliseconds() - tick.EpochMs
		if tick.Mode != ModeSecond || tick.EpochMs != next || late < 0 || late > 20 {
			t.Errorf("%v is %d ms late, but %d is expected", tick, late, next)
		}
		next += 1000
	}
	if next != 1_800_000_066_000 {
		t.Errorf("the ticks end before %d", next)
	}
}

func TestAMinuteThatWasDroppedComesAfterChangingBack(t *testing.T) {
	s, edge := modeSim(t, true, "a")
	s.perform()
	edge().lead = 5 * time.Second
	s.run(time.Second)
	s.setMode(ModeMinute)
	s.run(8 * time.Second)
	edge().ticks = "none"
	s.setMode(ModeSecond)
	s.run(8100 * time.Millisecond)
	if len(s.sub.held.events) > 0 {
		t.Error("the MINUTE tick is held although SECOND ticks follow")
	}
	edge().ticks = "on time"
	s.setMode(ModeMinute)
	s.run(75 * time.Second)
	s.checkNoRepetition()
	var minutes []int64
	for _, tick := range s.ticks() {
		if tick.Mode == ModeMinute {
			minutes = append(minutes, tick.EpochMs)
		}
	}
	if len(minutes) != 2 || minutes[0] != 1_800_000_060_000 || minutes[1] != 1_800_000_120_000 {
		t.Errorf("minutes %v", minutes)
	}
}

func TestASlowReaderThatChangesTheModeDoesNotBlameTheEdge(t *testing.T) {
	s, edge := steadySim(t, settings{})
	s.run(5 * time.Second)
	full := make([]Event, queueMax)
	for i := range full {
		full[i] = Gap{}
	}
	s.sub.queue = full
	s.setMode(ModeMinute)
	// The edge answers, but nothing is read for a minute.
	for end := s.now + time.Minute; s.now < end; s.now += 100 * time.Millisecond {
		s.sub.handleTimer(s.moment())
	}
	if s.sub.link == nil || s.sub.link.session.newest().mode != ModeMinute {
		t.Fatal("the edge was left")
	}
	s.sub.queue = nil
	s.run(s.now + 5*time.Second)
	if edge.conn.isClosed || edge.mode != ModeMinute || s.sub.link.answerBy != never {
		t.Errorf("the mode is %v; the edge was left: %v", edge.mode, edge.conn.isClosed)
	}
}
