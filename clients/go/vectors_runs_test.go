package tickstorm

import (
	"encoding/json"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"tickstorm.dev/client/internal/conformance"
	"tickstorm.dev/client/internal/wire"
)

// randoms are the random numbers with which each case is run: both ends, and others.
var randoms = []uint32{0, 1<<32 - 1, 1 << 31}

func constant(n uint32) func() uint32 { return func() uint32 { return n } }

// ending is how an edge ends a connection.
type ending struct {
	kind  string
	Error *struct {
		Code       string
		RetryAfter int64 `json:"retry_after_ms"`
	}
}

func (e *ending) UnmarshalJSON(text []byte) error {
	if json.Unmarshal(text, &e.kind) == nil {
		return nil
	}
	e.kind = "error"
	type plain ending
	return json.Unmarshal(text, (*plain)(e))
}

// end ends a connection.
func (e *ending) end(t *testing.T, c *simConn) {
	t.Helper()
	switch e.kind {
	case "eof":
		c.close(io.EOF)
	case "reset":
		c.close(syscall.ECONNRESET)
	case "bad frame":
		bad := ackOfSubscribe(0)
		bad[len(bad)-1] ^= 1
		c.send(bad)
	case "other schema":
		c.send(batchFrame(2, wire.Tick{EpochMs: 1 << 50}))
	case "error":
		c.send(errorFrame(e.Error.Code, e.Error.RetryAfter))
		c.close(io.EOF)
	default:
		t.Fatalf("an unknown end: %q", e.kind)
	}
}

type runCase struct {
	ID        string
	Authority int64 `json:"authority_ms,string"`
	Start     int64 `json:"start_epoch_ms,string"`
	Mode      string
	Ahead     bool
	Resume    *int64 `json:"resume_after_epoch_ms,string"`
	Edge      []struct {
		From         float64 `json:"from_ms"`
		Ticks, Pongs string
	}
	Machine []struct {
		At        float64 `json:"at_ms"`
		Suspended float64 `json:"suspended_ms"`
		Stalled   float64 `json:"stalled_ms"`
	}
	ComesBack *bool `json:"comes_back"`
	Closes    *struct {
		At   float64 `json:"at_ms"`
		Ends ending
	}
	Expect struct {
		Leaves   *interval `json:"leaves_ms"`
		ComeBack string    `json:"come_back"`
		NextDial *interval `json:"next_dial_ms"`
		Stays    float64   `json:"stays_until_ms"`
		Ticks    []struct {
			EpochMs int64    `json:"epoch_ms,string"`
			At      interval `json:"at_ms"`
			Quality string
		}
		Never      []string        `json:"never_epoch_ms"`
		NextResume json.RawMessage `json:"next_resume_after_epoch_ms"`
		Heartbeats []struct {
			From  float64 `json:"from_ms"`
			To    float64 `json:"to_ms"`
			Count [2]int
		}
	}
}

func TestVectorsOfRuns(t *testing.T) {
	var file struct{ Runs []runCase }
	conformance.Load(t, "sessions.json", &file)
	if len(file.Runs) == 0 {
		t.Fatal("no runs")
	}
	for _, c := range file.Runs {
		for _, random := range randoms {
			c, random := c, random
			t.Run(fmt.Sprintf("%s/%x", c.ID, random), func(t *testing.T) { c.check(t, random) })
		}
	}
}

func (c *runCase) check(t *testing.T, random uint32) {
	mode, err := ParseMode(orSecond(c.Mode))
	if err != nil {
		t.Fatal(err)
	}
	s := newSim(t, settings{mode: mode, ahead: c.Ahead, resumeAfter: c.Resume,
		reconnects: c.ComesBack == nil || *c.ComesBack, moves: true}, constant(random))
	edge := newSimEdge(s, c.Authority)
	edge.start = func(resume *int64) int64 {
		if resume != nil {
			return *resume
		}
		return c.Start
	}
	var dials []*simConn
	next := newSimEdge(s, c.Authority)
	s.onDial = func(conn *simConn) {
		dials = append(dials, conn)
		switch len(dials) {
		case 1:
			edge.serve(conn)
		case 2:
			next.authDelay = -1
			next.serve(conn)
		}
	}
	for _, phase := range c.Edge {
		phase := phase
		apply := func() {
			edge.ticks, edge.pongs = phase.Ticks, phase.Pongs
			edge.flush()
		}
		if phase.From == 0 {
			edge.ticks, edge.pongs = phase.Ticks, phase.Pongs
		} else {
			s.at(ms(phase.From), apply)
		}
	}
	for _, m := range c.Machine {
		m := m
		s.at(ms(m.At), func() {
			s.suspend(ms(m.Suspended))
			s.stall(ms(m.Stalled))
		})
	}
	if c.Closes != nil {
		edge.conn = nil
		s.at(ms(c.Closes.At), func() { c.Closes.Ends.end(t, edge.conn) })
	}
	edge.conn = &simConn{sim: s}
	s.sub.begin(s.moment())
	s.run(c.end())
	c.checkEnd(t, s, edge, dials)
	c.checkTicks(t, s, edge)
	c.checkResume(t, next, dials)
	for _, h := range c.Expect.Heartbeats {
		count := 0
		for _, at := range edge.heartbeats {
			if ms(h.From) <= at && at <= ms(h.To) {
				count++
			}
		}
		if count < h.Count[0] || count > h.Count[1] {
			t.Errorf("%d HEARTBEATs from %v to %v ms: %v", count, h.From, h.To, edge.heartbeats)
		}
	}
}

func orSecond(mode string) string {
	if mode == "" {
		return "SECOND"
	}
	return mode
}

// end returns until when to run the case.
func (c *runCase) end() time.Duration {
	end := ms(c.Expect.Stays)
	if c.Expect.Leaves != nil {
		end = c.Expect.Leaves.to + 5*time.Second
	}
	if n := len(c.Expect.Ticks); n > 0 {
		end = maxOf(end, c.Expect.Ticks[n-1].At.to)
	}
	if c.Closes != nil {
		end = maxOf(end, ms(c.Closes.At)+10*time.Second)
	}
	return end
}

func (c *runCase) checkEnd(t *testing.T, s *sim, edge *simEdge, dials []*simConn) {
	left := edge.conn.isClosed
	if c.Expect.Stays > 0 && left && edge.conn.closedAt < ms(c.Expect.Stays) {
		t.Errorf("left after %v: %v", edge.conn.closedAt, s.events[len(s.events)-1].event)
	}
	if c.Expect.Leaves == nil {
		return
	}
	if !left || !c.Expect.Leaves.contains(edge.conn.closedAt) {
		t.Fatalf("left: %v, after %v", left, edge.conn.closedAt)
	}
	if len(dials) < 2 || !c.Expect.NextDial.contains(dials[1].dialled-edge.conn.closedAt) {
		t.Errorf("the next connection is not made in time")
	}
	for _, e := range s.events {
		if r, ok := e.event.(Reconnecting); ok {
			if got := comeBackNames[r.Err.(failure).comeBack()]; got != c.Expect.ComeBack {
				t.Errorf("comes back %q after %v", got, r.Err)
			}
		}
	}
}

func (c *runCase) checkTicks(t *testing.T, s *sim, edge *simEdge) {
	never := map[string]bool{}
	for _, epoch := range c.Expect.Never {
		never[epoch] = true
	}
	var ticks []simEvent
	for _, e := range s.events {
		switch event := e.event.(type) {
		case Tick:
			ticks = append(ticks, e)
			if never[fmt.Sprint(event.EpochMs)] {
				t.Errorf("%v was handed out", event)
			}
		case Gap:
			t.Errorf("a gap from %d to %d", event.AfterEpochMs, event.BeforeEpochMs)
		}
	}
	if len(c.Expect.Ticks) == 0 {
		if len(ticks) != len(edge.sent) {
			t.Errorf("%d ticks, but %d were sent", len(ticks), len(edge.sent))
		}
		s.checkContinuity()
		return
	}
	s.checkContinuity()
	last := c.Expect.Ticks[len(c.Expect.Ticks)-1].EpochMs
	for i, got := range ticks {
		tick := got.event.(Tick)
		if i >= len(c.Expect.Ticks) {
			if tick.EpochMs <= last {
				t.Errorf("%v is handed out after the last tick", tick)
			}
			continue
		}
		want := c.Expect.Ticks[i]
		if tick.EpochMs != want.EpochMs || !want.At.contains(got.at) {
			t.Errorf("%v at %v, but expected %d", tick, got.at, want.EpochMs)
		}
		if q := tick.Quality.String(); want.Quality != "" && q != want.Quality {
			t.Errorf("the tick %d has the quality %s", want.EpochMs, q)
		}
	}
	if len(ticks) < len(c.Expect.Ticks) {
		t.Errorf("only %d ticks, but expected %d", len(ticks), len(c.Expect.Ticks))
	}
}

func (c *runCase) checkResume(t *testing.T, next *simEdge, dials []*simConn) {
	if c.Expect.NextResume == nil {
		return
	}
	if len(dials) < 2 {
		t.Fatal("the client does not come back")
	}
	got := "null"
	if next.resume != nil {
		got = fmt.Sprintf("%q", fmt.Sprint(*next.resume))
	}
	if got != string(c.Expect.NextResume) {
		t.Errorf("resumes after %s, but expected %s", got, c.Expect.NextResume)
	}
}
