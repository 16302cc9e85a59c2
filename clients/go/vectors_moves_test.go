package tickstorm

import (
	"encoding/json"
	"fmt"
	"io"
	"testing"
	"time"

	"tickstorm.dev/client/internal/conformance"
)

type moveCase struct {
	ID        string
	Addresses []string
	GoingAway []struct {
		At       float64 `json:"at_ms"`
		Deadline int64   `json:"deadline_ms"`
	} `json:"going_away"`
	Attempts         []attemptCase
	AnyAddress       bool     `json:"any_address"`
	FailuresBefore   int      `json:"failures_before"`
	SubscribedBefore *float64 `json:"subscribed_before_ms"`
	SubscribedAfter  float64  `json:"subscribed_after_ms"`
	Until            float64  `json:"until_ms"`
	OldEnds          *struct {
		At    *float64 `json:"at_ms"`
		After *float64 `json:"after_attempt_ms"`
		Ends  ending
	} `json:"old_ends"`
	NewEnds *ending `json:"new_ends"`
	Then    *struct {
		Address     string
		Wait        interval        `json:"wait_ms"`
		ResumeAfter json.RawMessage `json:"resume_after"`
	}
}

func TestVectorsOfMoves(t *testing.T) {
	var file struct{ Moves []moveCase }
	conformance.Load(t, "moves.json", &file)
	if len(file.Moves) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range file.Moves {
		for _, random := range randoms {
			c, random := c, random
			t.Run(fmt.Sprintf("%s/%x", c.ID, random), func(t *testing.T) {
				(&moveRun{moveCase: c, t: t}).run(random)
			})
		}
	}
}

// moveRun is a case of moving, as it is run.
type moveRun struct {
	moveCase
	t   *testing.T
	sim *sim
	old *simEdge
	// zero is when the first GOING_AWAY arrives, or 0 before that.
	zero     time.Duration
	made     int
	failures int
	current  *simEdge
	moved    bool
	ended    time.Duration
	lastTick *int64
	then     bool
	served   []servedAttempt
}

// servedAttempt is an attempt to move that was not refused at once.
type servedAttempt struct {
	attempt *attemptCase
	edge    *simEdge
}

const moveAuthority = 1_800_000_000_250

func (r *moveRun) run(random uint32) {
	r.sim = newSim(r.t, settings{addresses: r.Addresses, reconnects: true, moves: true},
		constant(random))
	r.sim.onDial = r.dial
	r.sim.sub.begin(r.sim.moment())
	r.sim.run(20 * time.Minute)
	if r.old == nil {
		r.t.Fatal("the client was never subscribed")
	}
	expected := len(r.Attempts)
	for _, a := range r.Attempts {
		if a.Repeats {
			expected--
		}
	}
	if r.made < expected && r.Until == 0 && !r.deadlineComesFirst() {
		r.t.Errorf("only %d attempts", r.made)
	}
	if r.Then != nil && !r.then {
		r.t.Error("the client does not come back")
	}
	r.checkMoves()
	r.sim.checkContinuity()
}

// checkMoves checks which of the attempts the client continued with, whatever became of them.
func (r *moveRun) checkMoves() {
	moved := map[string]bool{}
	for _, e := range r.sim.events {
		if m, ok := e.event.(Moved); ok {
			moved[m.EdgeID] = true
		}
	}
	for _, s := range r.served {
		want, id := s.attempt.Moves != nil && *s.attempt.Moves, s.edge.edgeID
		if moved[id] != want {
			r.t.Errorf("the client moved to %s: %v", id, moved[id])
		}
		if isOpen := !s.edge.conn.isClosed; isOpen != want && !(want && r.NewEnds != nil) {
			r.t.Errorf("the connection to %s is still open: %v", id, isOpen)
		}
	}
}

// deadlineComesFirst returns whether the next attempt may come after the last deadline, and so not
// at all.
func (r *moveRun) deadlineComesFirst() bool {
	last := r.GoingAway[len(r.GoingAway)-1]
	deadline := r.zero + ms(last.At) + ms(float64(last.Deadline))
	next := r.Attempts[r.made]
	return next.Wait != nil && r.ended+next.Wait.to > deadline
}

func (r *moveRun) dial(c *simConn) {
	switch {
	case r.old == nil && r.made == 0 && (r.failures >= r.FailuresBefore && c.address == 0):
		r.serveOld(c)
	case r.old == nil:
		r.failBefore(c)
	case r.then:
	case r.old.conn.isClosed && !(r.moved && !r.current.conn.isClosed):
		r.comeBack(c)
	default:
		r.attempt(c)
	}
}

// failBefore makes connections fail before the one that is moved. The first one must succeed.
func (r *moveRun) failBefore(c *simConn) {
	r.failures++
	if r.failures > 1 {
		c.fail()
		return
	}
	e := newSimEdge(r.sim, moveAuthority)
	e.onSubscribed = func() { r.sim.after(100*time.Millisecond, func() { c.close(io.EOF) }) }
	e.serve(c)
}

// serveOld serves the connection that is moved.
func (r *moveRun) serveOld(c *simConn) {
	r.old = newSimEdge(r.sim, moveAuthority)
	r.old.edgeID = "old"
	before := 5 * time.Second
	if r.SubscribedBefore != nil {
		before = ms(*r.SubscribedBefore)
	}
	r.zero = r.sim.now + before
	c.onClose = r.handleEnd
	r.old.serve(c)
	for _, g := range r.GoingAway {
		deadline := g.Deadline
		r.sim.at(r.zero+ms(g.At), func() { c.send(goingAwayFrame(deadline)) })
	}
	if r.OldEnds != nil && r.OldEnds.At != nil {
		r.sim.at(r.zero+ms(*r.OldEnds.At), func() { r.OldEnds.Ends.end(r.t, c) })
	}
}

func (r *moveRun) handleEnd() { r.ended = r.sim.now }

// next returns the attempt that is expected now.
func (r *moveRun) next() *attemptCase {
	for r.made < len(r.Attempts) {
		a := &r.Attempts[r.made]
		if a.Until == 0 || r.sim.now <= r.zero+ms(a.Until) {
			return a
		}
		r.made++
	}
	r.t.Fatalf("a further attempt after %v", r.sim.now-r.zero)
	return nil
}

// attempt is an attempt to move.
func (r *moveRun) attempt(c *simConn) {
	a := r.next()
	since := r.sim.now - r.zero
	if r.Until > 0 && since > ms(r.Until) {
		r.t.Errorf("an attempt after %v", since)
	}
	if got := r.Addresses[c.address]; !r.AnyAddress && got != a.Address {
		r.t.Errorf("attempt %d is made to %s", r.made, got)
	}
	if a.At != nil && !a.At.contains(since) && !(a.Repeats && since <= ms(a.Until)) {
		r.t.Errorf("attempt %d is made after %v", r.made, since)
	}
	if wait := r.sim.now - r.ended; a.Wait != nil && !a.Wait.contains(wait) {
		r.t.Errorf("attempt %d is made %v after the one before", r.made, wait)
	}
	if !a.Repeats {
		r.made++
	}
	if r.OldEnds != nil && r.OldEnds.After != nil {
		r.sim.after(ms(*r.OldEnds.After), func() { r.OldEnds.Ends.end(r.t, r.old.conn) })
	}
	if a.Unreachable {
		r.ended = r.sim.now
		c.fail()
		return
	}
	if a.Unanswered {
		c.onClose = func() { r.handleGivenUp(a, c) }
		c.ignore()
		return
	}
	r.serve(a, c)
}

// handleGivenUp records the end of an attempt.
func (r *moveRun) handleGivenUp(a *attemptCase, c *simConn) {
	r.handleEnd()
	if a.GivesUp != nil && !a.GivesUp.contains(r.sim.now-c.dialled) {
		r.t.Errorf("the attempt is given up after %v", r.sim.now-c.dialled)
	}
}

// serve serves an attempt to move.
func (r *moveRun) serve(a *attemptCase, c *simConn) {
	e := a.edge(r.t, r.sim, moveAuthority)
	e.edgeID = fmt.Sprintf("other-%d", len(r.served))
	if a.EdgeID == "same" {
		e.edgeID = "old"
	}
	r.served = append(r.served, servedAttempt{a, e})
	if a.IPs != nil {
		c.ips = *a.IPs
	}
	if a.Start == "too late" {
		e.start = func(resume *int64) int64 { return *resume + 5000 }
	}
	c.onClose = func() { r.handleGivenUp(a, c) }
	beforeMove := r.old.conn
	e.onSubscribe = func() {
		if last := r.old.last; e.resume == nil || *e.resume != last {
			r.t.Errorf("the resume point is %s, but the last tick is %d", shown(e.resume), last)
		}
	}
	e.onSubscribed = func() {
		if a.Moves != nil && *a.Moves {
			r.current, r.moved = e, true
		}
		r.sim.after(0, func() {
			if a.Moves != nil && *a.Moves != !c.isClosed {
				r.t.Errorf("the client moved: %v", !c.isClosed)
			}
			if a.Moves != nil && *a.Moves && !beforeMove.isClosed {
				r.t.Error("the old connection is still open")
			}
		})
		if r.NewEnds != nil {
			r.sim.after(ms(r.SubscribedAfter), func() { r.NewEnds.end(r.t, c) })
		}
	}
	e.serve(c)
}

// comeBack is the first connection after the end of both.
func (r *moveRun) comeBack(c *simConn) {
	r.then = true
	if r.Then == nil {
		r.t.Errorf("the client comes back")
		return
	}
	if got := r.Addresses[c.address]; r.Then.Address != "" && got != r.Then.Address {
		r.t.Errorf("the client comes back to %s", got)
	}
	if wait := r.sim.now - r.ended; !r.Then.Wait.contains(wait) {
		r.t.Errorf("the client comes back after %v", wait)
	}
	last := r.old
	if r.current != nil {
		last = r.current
	}
	e := newSimEdge(r.sim, moveAuthority)
	e.edgeID = "then"
	e.onSubscribed = func() {
		if r.Then.ResumeAfter != nil {
			checkResume(r.t, r.made, string(r.Then.ResumeAfter), e.resume, &last.sent[len(last.sent)-1], nil)
		}
	}
	e.serve(c)
}
