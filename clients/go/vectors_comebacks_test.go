package tickstorm

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"tickstorm.dev/client/internal/conformance"
	"tickstorm.dev/client/internal/wire"
)

// attemptCase is an attempt to connect, in reconnect.json and moves.json.
type attemptCase struct {
	Address        string
	Wait           *interval       `json:"wait_ms"`
	At             *interval       `json:"at_ms"`
	ResumeAfter    json.RawMessage `json:"resume_after"`
	PresentsCookie json.RawMessage `json:"presents_cookie"`
	Unreachable    bool
	Unanswered     bool
	IPs            *int `json:"ip_addresses"`
	Error          *struct {
		Code       string
		RetryAfter int64 `json:"retry_after_ms"`
	}
	Answers        string
	SilentAfter    string    `json:"silent_after"`
	GivesUp        *interval `json:"gives_up_ms"`
	AckOfAuth      float64   `json:"ack_of_auth_after_ms"`
	AckOfSubscribe float64   `json:"ack_of_subscribe_after_ms"`
	Minor          *int64    `json:"protocol_minor"`
	GivesCookie    string    `json:"gives_cookie"`
	Jumps          int64     `json:"authority_jumps_ms"`
	Serves         *float64  `json:"serves_ms"`
	Ends           *ending
	Heartbeats     *struct {
		Within float64 `json:"within_ms"`
		Count  [2]int
	}
	// Of moves:
	Repeats bool
	Until   float64 `json:"until_ms"`
	EdgeID  string  `json:"edge_id"`
	Start   string
	Moves   *bool
}

// edge returns the edge of an attempt.
func (a *attemptCase) edge(t *testing.T, s *sim, authority int64) *simEdge {
	e := newSimEdge(s, authority)
	e.authDelay, e.subscribeDelay = ms(a.AckOfAuth), ms(a.AckOfSubscribe)
	if a.Minor != nil {
		e.minor = *a.Minor
	}
	cookie, err := hex.DecodeString(a.GivesCookie)
	if err != nil {
		t.Fatal(err)
	}
	e.cookie = cookie
	switch a.SilentAfter {
	case "":
	case "connect":
		e.authDelay, e.pongs = -1, "none"
	case "ACK of AUTH":
		e.subscribeDelay, e.pongs = -1, "without time"
	default:
		t.Fatalf("an edge that is silent after %q", a.SilentAfter)
	}
	switch a.Answers {
	case "":
	case "AUTH":
		e.answers = wire.TypeAuth
	case "SUBSCRIBE":
		e.answers = wire.TypeSubscribe
	default:
		t.Fatalf("an edge that answers %q", a.Answers)
	}
	end := ending{kind: "error", Error: a.Error}
	if a.Error == nil && a.Ends != nil {
		end = *a.Ends
	}
	e.refuses = func(c *simConn) { end.end(t, c) }
	return e
}

type comebackCase struct {
	ID        string
	Addresses []string
	Mode      string
	Attempts  []attemptCase
	GivesUp   bool `json:"gives_up"`
}

func TestVectorsOfComebacks(t *testing.T) {
	var file struct{ Comebacks []comebackCase }
	conformance.Load(t, "reconnect.json", &file)
	if len(file.Comebacks) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range file.Comebacks {
		for _, random := range randoms {
			c, random := c, random
			t.Run(fmt.Sprintf("%s/%x", c.ID, random), func(t *testing.T) {
				(&comebackRun{comebackCase: c, t: t}).run(random)
			})
		}
	}
}

// comebackRun is a case of coming back, as it is run.
type comebackRun struct {
	comebackCase
	t          *testing.T
	sim        *sim
	authority  int64
	made       int
	ended      time.Duration
	lastTick   *int64
	firstStart *int64
	over       bool
}

func (r *comebackRun) run(random uint32) {
	mode, err := ParseMode(orSecond(r.Mode))
	if err != nil {
		r.t.Fatal(err)
	}
	r.sim = newSim(r.t, settings{addresses: r.Addresses, mode: mode, reconnects: true, moves: true},
		constant(random))
	r.authority = 1_800_000_000_250
	if mode == ModeMinute {
		// A minute begins after 4 s.
		r.authority = 1_800_000_056_000
	}
	r.sim.onDial = r.dial
	r.sim.sub.begin(r.sim.moment())
	for !r.over && r.sim.now < time.Hour {
		r.sim.run(r.sim.now + time.Second)
	}
	if r.made < len(r.Attempts) {
		r.t.Fatalf("only %d attempts", r.made)
	}
	r.sim.run(r.sim.now + 500*time.Second)
	if r.GivesUp != (r.sim.sub.phase == phaseOver) {
		r.t.Errorf("gives up: %v", !r.GivesUp)
	}
	r.sim.checkContinuity()
}

// dial is what an attempt leads to.
func (r *comebackRun) dial(c *simConn) {
	if r.made == len(r.Attempts) {
		if r.GivesUp {
			r.t.Error("a further attempt")
		}
		r.over = true
		return
	}
	a := &r.Attempts[r.made]
	r.made++
	if got := r.Addresses[c.address]; got != a.Address {
		r.t.Errorf("attempt %d is made to %s", r.made, got)
	}
	if wait := r.sim.now - r.ended; a.Wait != nil && !a.Wait.contains(wait) {
		r.t.Errorf("attempt %d is made after %v, but expected %v", r.made, wait, *a.Wait)
	}
	if a.Unanswered {
		number := r.made
		c.onClose = func() {
			r.ended = r.sim.now
			r.over = number == len(r.Attempts)
			if took := r.sim.now - c.dialled; !a.GivesUp.contains(took) {
				r.t.Errorf("attempt %d is given up after %v", number, took)
			}
		}
		c.ignore()
		return
	}
	if a.IPs != nil {
		c.ips = *a.IPs
	}
	if a.Unreachable {
		r.ended = r.sim.now
		r.over = r.made == len(r.Attempts)
		c.fail()
		return
	}
	r.authority += a.Jumps
	edge := a.edge(r.t, r.sim, r.authority)
	edge.edgeID = fmt.Sprintf("edge-%d", r.made)
	number := r.made
	c.onClose = func() {
		r.ended = r.sim.now
		r.over = number == len(r.Attempts)
		r.checkEdge(number, a, edge)
	}
	edge.onSubscribed = func() {
		r.keep(&r.firstStart, edge.startMs)
		if a.Serves != nil {
			r.sim.after(ms(*a.Serves), func() { a.Ends.end(r.t, c) })
		}
	}
	edge.serve(c)
}

func (r *comebackRun) keep(to **int64, value int64) {
	if *to == nil {
		*to = &value
	}
}

// checkEdge checks what an edge saw until its connection ended.
func (r *comebackRun) checkEdge(number int, a *attemptCase, edge *simEdge) {
	t := r.t
	if a.ResumeAfter != nil {
		checkResume(t, number, string(a.ResumeAfter), edge.resume, r.lastTick, r.firstStart)
	}
	if a.PresentsCookie != nil {
		got := "null"
		if cookie := edge.auth[6]; cookie != nil {
			got = fmt.Sprintf("%q", hex.EncodeToString(cookie))
		}
		if got != string(a.PresentsCookie) {
			t.Errorf("attempt %d presents the cookie %s", number, got)
		}
	}
	if a.GivesUp != nil {
		from := edge.conn.dialled
		if a.SilentAfter == "ACK of AUTH" {
			from = edge.authenticAt
		}
		if took := r.sim.now - from; !a.GivesUp.contains(took) {
			t.Errorf("attempt %d is given up after %v", number, took)
		}
	}
	if h := a.Heartbeats; h != nil {
		count := 0
		for _, at := range edge.heartbeats {
			if at-edge.authenticAt <= ms(h.Within) {
				count++
			}
		}
		if count < h.Count[0] || count > h.Count[1] {
			t.Errorf("attempt %d: %d HEARTBEATs", number, count)
		}
	}
	if n := len(edge.sent); n > 0 {
		r.lastTick = &edge.sent[n-1]
	}
}

// checkResume checks the resume point of a SUBSCRIBE.
func checkResume(t *testing.T, number int, want string, got, lastTick, firstStart *int64) {
	t.Helper()
	expected := map[string]*int64{"null": nil, `"last tick"`: lastTick, `"start"`: firstStart}
	point, known := expected[want]
	switch {
	case !known:
		t.Fatalf("an unknown resume point: %s", want)
	case point == nil && got == nil:
	case point == nil || got == nil || *point != *got:
		t.Errorf("attempt %d resumes after %s, but expected %s %s",
			number, shown(got), want, shown(point))
	}
}

func shown(n *int64) string {
	if n == nil {
		return "nothing"
	}
	return fmt.Sprint(*n)
}
