package tickstorm

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"testing"
	"time"

	"tickstorm.dev/client/internal/conformance"
	"tickstorm.dev/client/internal/wire"
)

// interval is a time in milliseconds, or the two ends between which it may be.
type interval struct{ from, to time.Duration }

func (i *interval) UnmarshalJSON(text []byte) error {
	var ends [2]float64
	if err := json.Unmarshal(text, &ends); err != nil {
		return err
	}
	i.from, i.to = ms(ends[0]), ms(ends[1])
	return nil
}

func (i *interval) contains(d time.Duration) bool { return i.from <= d && d <= i.to }

func ms(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }

var comeBackNames = map[comeBack]string{
	comeBackNo:            "no",
	comeBackAtOnce:        "at once",
	comeBackWithoutResume: "at once, without the resume point",
	comeBackRetryResume:   "once more with it, then without",
	comeBackLater:         "later",
	comeBackElsewhere:     "another edge, later",
}

func TestVectorsOfEstimates(t *testing.T) {
	type step struct {
		Pong *struct {
			T1 int64  `json:"t1_us,string"`
			T2 int64  `json:"t2_us,string"`
			T3 int64  `json:"t3_us,string"`
			T4 int64  `json:"t4_us,string"`
			E  uint32 `json:"error_bound_us"`
		}
		At     *int64 `json:"at_us,string"`
		Stall  *int64 `json:"stall_at_us,string"`
		New    any    `json:"new_connection"`
		Expect *struct {
			Offset int64           `json:"offset_us,string"`
			Error  json.RawMessage `json:"error_us"`
		}
	}
	var file struct {
		Tolerance int64 `json:"tolerance_us"`
		Cases     []struct {
			ID    string
			Steps []step
		}
	}
	conformance.Load(t, "estimate.json", &file)
	if len(file.Cases) == 0 {
		t.Fatal("no cases")
	}
	us := func(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
	for _, c := range file.Cases {
		c := c
		t.Run(c.ID, func(t *testing.T) {
			var e estimator
			for i, s := range c.Steps {
				switch {
				case s.Pong != nil:
					e.handleExchange(exchange{s.Pong.T1, s.Pong.T2, s.Pong.T3, us(s.Pong.T4), s.Pong.E})
				case s.Stall != nil:
					e.handleStall(us(*s.Stall))
				case s.New != nil:
					e.handleConnection()
				case s.At != nil:
					got, ok := e.estimate(us(*s.At))
					if ok != (s.Expect != nil) {
						t.Fatalf("step %d: there is an estimate: %v", i, ok)
					}
					if !ok {
						continue
					}
					var low, high int64
					if json.Unmarshal(s.Expect.Error, &low) == nil {
						high = low
					} else if err := json.Unmarshal(s.Expect.Error, &[2]*int64{&low, &high}); err != nil {
						t.Fatal(err)
					}
					offset := (got.ns - int64(us(*s.At))) / 1000
					if d := offset - s.Expect.Offset; d < -file.Tolerance || d > file.Tolerance {
						t.Errorf("step %d: the offset is %d, but expected %d", i, offset, s.Expect.Offset)
					}
					if e := got.err.Microseconds(); e < low-file.Tolerance || e > high+file.Tolerance {
						t.Errorf("step %d: the error is %d, but expected %d to %d", i, e, low, high)
					}
				default:
					t.Fatalf("step %d is of an unknown kind", i)
				}
			}
		})
	}
}

func TestVectorsOfCodes(t *testing.T) {
	var file struct {
		Codes []struct {
			ID, Code string
			ComeBack string `json:"come_back"`
			With     *struct {
				ComeBack string `json:"come_back"`
			} `json:"with_resume_point"`
		}
	}
	conformance.Load(t, "reconnect.json", &file)
	if len(file.Codes) == 0 {
		t.Fatal("no codes")
	}
	for _, c := range file.Codes {
		point := int64(0)
		without, with := position{}, position{point: &point}
		if got := comeBackNames[without.classify(Code(c.Code).comeBack())]; got != c.ComeBack {
			t.Errorf("%s: the client comes back %q, but expected %q", c.ID, got, c.ComeBack)
		}
		want := c.ComeBack
		if c.With != nil {
			want = c.With.ComeBack
		}
		if got := comeBackNames[with.classify(Code(c.Code).comeBack())]; got != want {
			t.Errorf("%s: with a resume point, it comes back %q, but expected %q", c.ID, got, want)
		}
	}
}

// clientSession is a case of a whole connection as a client reads it.
type clientSession struct {
	ID         string
	Subscribes []struct {
		Mode   string
		Resume *int64 `json:"resume_after_epoch_ms,string"`
		Ahead  bool
	}
	Hex    string
	Closes string
	Events []map[string]any
	Ends   *struct {
		ComeBack string  `json:"come_back"`
		Broke    bool    `json:"broke_the_protocol"`
		Resume   *string `json:"resume_after_epoch_ms"`
	}
}

func TestVectorsOfClientSessions(t *testing.T) {
	var file struct {
		Cases []clientSession `json:"client_sessions"`
	}
	conformance.Load(t, "sessions.json", &file)
	if len(file.Cases) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range file.Cases {
		c := c
		t.Run(c.ID, func(t *testing.T) {
			raw, err := hex.DecodeString(c.Hex)
			if err != nil {
				t.Fatal(err)
			}
			c.check(t, raw)
			var single [][]byte
			for i := range raw {
				single = append(single, raw[i:i+1])
			}
			c.check(t, single...)
		})
	}
}

// check passes the pieces of a connection to a session, and to a subscription for what it makes of
// the ticks.
func (c *clientSession) check(t *testing.T, pieces ...[]byte) {
	t.Helper()
	mode, err := ParseMode(c.Subscribes[0].Mode)
	if err != nil {
		t.Fatal(err)
	}
	s := newSubscription(settings{addresses: []string{"a"}, mode: mode,
		resumeAfter: c.Subscribes[0].Resume}, func() uint32 { return 0 })
	s.phase, s.first = phaseSubscribed, nil
	l := s.dial(0, s.est, 0)
	l.dialling, s.link = false, l
	for i, r := range c.Subscribes {
		mode, err := ParseMode(r.Mode)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			s.setMode(moment{}, mode)
		}
		l.session.subscribe(request{mode: mode, resumeAfter: r.Resume, ahead: r.Ahead})
	}
	var events []map[string]any
	var failed failure
	for _, piece := range pieces {
		l.session.feed(piece)
		for failed == nil {
			var event any
			if event, failed = l.session.next(0, 0); event == nil {
				break
			}
			events = append(events, c.describe(s, event)...)
		}
	}
	if refusal, ok := failed.(*ServerError); ok {
		events = append(events, map[string]any{"error": map[string]any{
			"code": string(refusal.Code), "retry_after_ms": float64(refusal.RetryAfter.Milliseconds()),
			"connection_id": orNil(refusal.ConnectionID)}})
	}
	if failed == nil && c.Closes != "" {
		failed = &ClosedError{Err: io.EOF}
	}
	if !reflect.DeepEqual(events, c.Events) && len(events)+len(c.Events) > 0 {
		t.Fatalf("the events are\n%v, but expected\n%v", events, c.Events)
	}
	c.checkEnd(t, s, failed)
}

func (c *clientSession) checkEnd(t *testing.T, s *subscription, failed failure) {
	t.Helper()
	if (failed != nil) != (c.Ends != nil) {
		t.Fatalf("the connection ends: %v", failed)
	}
	if failed == nil {
		return
	}
	how := s.position.classify(failed.comeBack())
	if comeBackNames[how] != c.Ends.ComeBack {
		t.Errorf("comes back %q after %v", comeBackNames[how], failed)
	}
	if broke, ok := failed.(*ProtocolError); (ok && !broke.isNewSchema) != c.Ends.Broke {
		t.Errorf("the edge broke the protocol: %v", failed)
	}
	s.position.handleEnd(failed.comeBack())
	got := "null"
	if r := s.request(); r.resumeAfter != nil {
		got = fmt.Sprint(*r.resumeAfter)
	}
	want := "null"
	if c.Ends.Resume != nil {
		want = *c.Ends.Resume
	}
	if got != want {
		t.Errorf("resumes after %s, but expected %s", got, want)
	}
}

// describe returns an event of a session in the form of the vectors.
func (c *clientSession) describe(s *subscription, event any) []map[string]any {
	one := func(name string, value map[string]any) []map[string]any {
		return []map[string]any{{name: value}}
	}
	switch event := event.(type) {
	case authenticated:
		var limit any
		if event.frameRateLimit != 0 {
			limit = float64(event.frameRateLimit)
		}
		return one("authenticated", map[string]any{
			"edge_id":               event.edgeID,
			"heartbeat_interval_ms": float64(event.heartbeatInterval.Milliseconds()),
			"heartbeat_timeout_ms":  float64(event.heartbeatTimeout.Milliseconds()),
			"protocol_minor":        float64(event.protocolMinor),
			"connection_id":         orNil(event.connectionID),
			"frame_rate_limit":      limit,
			"cookie":                orNil(hex.EncodeToString(event.cookie)),
		})
	case subscribed:
		s.start(event)
		return one("subscribed", map[string]any{"start_epoch_ms": fmt.Sprint(event.start)})
	case ponged:
		s.est.handleExchange(event.exchange)
		return one("pong", map[string]any{"client_time_us": fmt.Sprint(event.t1Us)})
	case goingAway:
		return one("going_away", map[string]any{"deadline_ms": float64(event.within.Milliseconds())})
	case batch:
		s.handleBatch(event, 0)
	}
	var events []map[string]any
	for _, e := range s.queue {
		switch e := e.(type) {
		case Tick:
			events = append(events, map[string]any{"tick": map[string]any{"mode": e.Mode.String(),
				"epoch_ms": fmt.Sprint(e.EpochMs), "quality": e.Quality.String()}})
		case Gap:
			events = append(events, map[string]any{"gap": map[string]any{
				"after_epoch_ms":  fmt.Sprint(e.AfterEpochMs),
				"before_epoch_ms": fmt.Sprint(e.BeforeEpochMs)}})
		}
	}
	s.queue = nil
	return events
}

func orNil(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func TestVectorsOfHeartbeats(t *testing.T) {
	var file struct {
		Cases []struct {
			ID       string
			Interval float64 `json:"heartbeat_interval_ms"`
			Rate     uint32  `json:"frame_rate_limit"`
			Ahead    bool
			Sparing  bool       `json:"after_rate_limited"`
			HasTime  []bool     `json:"pong_has_time"`
			Wants    []interval `json:"intervals_ms"`
		} `json:"heartbeats"`
	}
	conformance.Load(t, "sessions.json", &file)
	if len(file.Cases) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range file.Cases {
		for _, random := range []uint32{0, 7, 20} {
			s := session{sparing: c.Sparing}
			s.subscribe(request{ahead: c.Ahead})
			s.beats = newHeartbeats(ms(c.Interval), c.Rate, c.Sparing, time.Hour)
			last := time.Hour
			for i, want := range c.Wants {
				now := s.nextHeartbeat()
				if !want.contains(now - last) {
					t.Errorf("%s: HEARTBEAT %d comes %v after the one before (random %d)",
						c.ID, i, now-last, random)
				}
				last = now
				s.handleHeartbeat(now, random)
				at := i
				if at >= len(c.HasTime) {
					at = len(c.HasTime) - 1
				}
				s.beats.handlePong(c.HasTime[at], now)
			}
		}
	}
}

// The payloads that edges write.

func ackOfAuth(edgeID string, minor int64, cookie []byte) []byte {
	p := wire.AppendNumber(nil, 1, int64(wire.TypeAuth))
	p = wire.AppendNumber(p, 2, 15_000)
	p = wire.AppendNumber(p, 3, 20_000)
	p = wire.AppendBytes(p, 4, []byte(edgeID))
	p = wire.AppendNumber(p, 6, minor)
	p = wire.AppendNumber(p, 8, 10)
	return wire.AppendFrame(nil, wire.TypeAck, wire.AppendBytes(p, 9, cookie))
}

func ackOfSubscribe(start int64) []byte {
	p := wire.AppendNumber(nil, 1, int64(wire.TypeSubscribe))
	return wire.AppendFrame(nil, wire.TypeAck, wire.AppendNumber(p, 5, start))
}

func batchFrame(schema int64, ticks ...wire.Tick) []byte {
	p := wire.AppendNumber(nil, 1, schema)
	for _, tick := range ticks {
		m := wire.AppendNumber(nil, 1, int64(tick.Mode))
		m = wire.AppendNumber(m, 2, tick.EpochMs)
		p = wire.AppendBytes(p, 2, wire.AppendNumber(m, 3, int64(tick.Quality)))
	}
	return wire.AppendFrame(nil, wire.TypeDataBatch, p)
}

func pongFrame(t1Us, unixUs, errorBoundUs int64) []byte {
	p := wire.AppendNumber(nil, 1, t1Us)
	p = wire.AppendNumber(p, 2, unixUs)
	p = wire.AppendNumber(p, 3, unixUs)
	return wire.AppendFrame(nil, wire.TypePong, wire.AppendNumber(p, 4, errorBoundUs))
}

func errorFrame(code string, retryAfterMs int64) []byte {
	p := wire.AppendBytes(nil, 1, []byte(code))
	return wire.AppendFrame(nil, wire.TypeError, wire.AppendNumber(p, 3, retryAfterMs))
}

func goingAwayFrame(deadlineMs int64) []byte {
	return wire.AppendFrame(nil, wire.TypeGoingAway, wire.AppendNumber(nil, 1, deadlineMs))
}
