package tickstorm

import (
	"fmt"
	"time"

	"tickstorm.dev/client/internal/wire"
)

const (
	schemaVersion       = 1
	cookieLenMax        = 64
	connectionIDLenMax  = 40
	clientVersionPrefix = "tickstorm-go/"
	// subscribeFrames is the number of frames as which a SUBSCRIBE counts.
	subscribeFrames = 10
)

// request is what a SUBSCRIBE asks for.
type request struct {
	mode        Mode
	resumeAfter *int64
	ahead       bool
}

// welcome is the content of the ACK of AUTH.
type welcome struct {
	edgeID            string
	heartbeatInterval time.Duration
	heartbeatTimeout  time.Duration
	protocolMinor     uint32
	connectionID      string
	frameRateLimit    uint32
	cookie            []byte
}

// The events of a session.
type (
	authenticated struct{ welcome }
	subscribed    struct {
		request request
		start   int64
	}
	batch struct {
		mode  Mode
		ticks []wire.Tick
	}
	ponged    struct{ exchange }
	goingAway struct{ within time.Duration }
)

// session is the client's side of one connection: which frames to send, and whether the frames that
// arrive keep the protocol's promises.
type session struct {
	decoder wire.Decoder
	// requests are the SUBSCRIBEs that have not been acknowledged yet.
	requests []request
	// serving is the SUBSCRIBE that was acknowledged last.
	serving *request
	// last is the last tick, or where the subscription that is served starts.
	last int64
	// beats is nil until the ACK of AUTH.
	beats   *heartbeats
	exact   bool
	sparing bool
	refused bool
}

// authenticate returns the AUTH frame, which must be the first.
func (s *session) authenticate(auth *wire.Auth) []byte {
	return wire.AppendFrame(nil, wire.TypeAuth, auth.Append(nil))
}

// subscribe returns a SUBSCRIBE frame. Until its ACK arrives, ticks still belong to the
// subscription before.
func (s *session) subscribe(r request) []byte {
	s.requests = append(s.requests, r)
	m := wire.Subscribe{Mode: int32(r.mode), ResumeAfterEpochMs: r.resumeAfter, Ahead: r.ahead}
	return wire.AppendFrame(nil, wire.TypeSubscribe, m.Append(nil))
}

// newest returns the SUBSCRIBE that was sent last, acknowledged or not.
func (s *session) newest() *request {
	if n := len(s.requests); n > 0 {
		return &s.requests[n-1]
	}
	return s.serving
}

// nextHeartbeat returns when the next HEARTBEAT is due.
func (s *session) nextHeartbeat() instant {
	if s.beats == nil || s.refused {
		return never
	}
	return s.beats.next
}

// handleHeartbeat records that a HEARTBEAT is sent now.
func (s *session) handleHeartbeat(now instant, random uint32) {
	newest := s.newest()
	s.beats.handleSent(now, s.exact || newest != nil && newest.ahead, random)
}

// feed appends bytes that were read.
func (s *session) feed(bytes []byte) { s.decoder.Feed(bytes) }

// next returns the next event in the bytes fed, which were read at readAt, or nil. The failure may
// be an ERROR of the edge or its breach of the protocol; it is the last result.
func (s *session) next(readAt, now instant) (any, failure) {
	for !s.refused {
		frame, ok, err := s.decoder.Next()
		if err != nil {
			return nil, &ProtocolError{Reason: err.Error()}
		}
		if !ok {
			return nil, nil
		}
		if event, failed := s.handleFrame(frame, readAt, now); event != nil || failed != nil {
			return event, failed
		}
	}
	return nil, nil
}

func (s *session) handleFrame(frame wire.Frame, readAt, now instant) (any, failure) {
	switch frame.Type {
	case wire.TypeAck:
		return s.handleAck(frame.Payload, now)
	case wire.TypeDataBatch:
		return s.handleBatch(frame.Payload)
	case wire.TypePong:
		return s.handlePong(frame.Payload, readAt)
	case wire.TypeError:
		return nil, s.handleError(frame.Payload)
	case wire.TypeGoingAway:
		m, err := wire.DecodeGoingAway(frame.Payload)
		if err != nil {
			return nil, malformed(frame.Type, err)
		}
		return goingAway{time.Duration(m.DeadlineMs) * time.Millisecond}, nil
	case wire.TypeAuth, wire.TypeSubscribe, wire.TypeHeartbeat:
		return nil, unexpected(frame.Type)
	}
	return nil, nil
}

func malformed(t wire.Type, err error) failure {
	return &ProtocolError{Reason: fmt.Sprintf("the payload of %v does not decode: %v", t, err)}
}

func unexpected(t wire.Type) failure {
	return &ProtocolError{Reason: fmt.Sprintf("it sent %v where it must not", t)}
}

func (s *session) handleAck(payload []byte, now instant) (any, failure) {
	ack, err := wire.DecodeAck(payload)
	if err != nil {
		return nil, malformed(wire.TypeAck, err)
	}
	switch wire.Type(ack.AckedType) {
	case wire.TypeAuth:
		if s.beats != nil {
			return nil, unexpected(wire.TypeAck)
		}
		interval := time.Duration(ack.HeartbeatIntervalMs) * time.Millisecond
		s.beats = newHeartbeats(interval, ack.FrameRateLimit, s.sparing, now)
		return authenticated{welcome{
			edgeID:            ack.EdgeID,
			heartbeatInterval: interval,
			heartbeatTimeout:  time.Duration(ack.HeartbeatTimeoutMs) * time.Millisecond,
			protocolMinor:     ack.ProtocolMinor,
			connectionID:      validConnectionID(ack.ConnectionID),
			frameRateLimit:    ack.FrameRateLimit,
			cookie:            validCookie(ack.Cookie),
		}}, nil
	case wire.TypeSubscribe:
		if s.beats == nil || len(s.requests) == 0 {
			return nil, unexpected(wire.TypeAck)
		}
		served := s.requests[0]
		s.requests = s.requests[1:]
		s.serving, s.last = &served, ack.StartEpochMs
		if served.ahead {
			s.beats.requireExactTime(now)
		}
		return subscribed{served, ack.StartEpochMs}, nil
	}
	// An ACK of a frame type that this version does not know is ignored.
	return nil, nil
}

// validConnectionID returns the id, or nothing if it is not one that an edge gives. It can be
// printed as it is.
func validConnectionID(id string) string {
	if len(id) > connectionIDLenMax {
		return ""
	}
	for _, b := range []byte(id) {
		if b <= ' ' || b > '~' {
			return ""
		}
	}
	return id
}

func validCookie(cookie []byte) []byte {
	if len(cookie) > cookieLenMax {
		return nil
	}
	return cookie
}

func (s *session) handleBatch(payload []byte) (any, failure) {
	m, err := wire.DecodeDataBatch(payload)
	if err != nil {
		return nil, malformed(wire.TypeDataBatch, err)
	}
	if s.serving == nil {
		return nil, unexpected(wire.TypeDataBatch)
	}
	if m.SchemaVersion != schemaVersion {
		return nil, &ProtocolError{isNewSchema: true, Reason: fmt.Sprintf(
			"a DATA_BATCH has schema version %d, but this client only knows %d",
			m.SchemaVersion, schemaVersion)}
	}
	if len(m.Ticks) == 0 {
		return nil, &ProtocolError{Reason: "a DATA_BATCH contains no tick"}
	}
	for _, tick := range m.Ticks {
		if Mode(tick.Mode) != s.serving.mode {
			return nil, &ProtocolError{Reason: fmt.Sprintf("a tick of %v arrived in a subscription to %v",
				Mode(tick.Mode), s.serving.mode)}
		}
		if tick.EpochMs <= s.last {
			return nil, &ProtocolError{Reason: fmt.Sprintf("tick %d is not later than %d, the tick "+
				"before it or the subscription's start", tick.EpochMs, s.last)}
		}
		s.last = tick.EpochMs
	}
	return batch{s.serving.mode, m.Ticks}, nil
}

func (s *session) handlePong(payload []byte, readAt instant) (any, failure) {
	m, err := wire.DecodePong(payload)
	if err != nil {
		return nil, malformed(wire.TypePong, err)
	}
	event := ponged{exchange{
		t1Us: m.ClientTimeUs, t2Us: m.ReceivedUnixUs, t3Us: m.SentUnixUs,
		t4: readAt, errorBoundUs: m.ErrorBoundUs,
	}}
	if s.beats != nil {
		s.beats.handlePong(event.hasTime(), microseconds(m.ClientTimeUs))
	}
	return event, nil
}

// microseconds converts a number from the wire. One that does not fit is no reading of this
// machine's clock.
func microseconds(n int64) time.Duration {
	if n < 0 || n > int64(never/time.Microsecond) {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

func (p ponged) hasTime() bool { return p.t2Us != 0 && p.t3Us != 0 }

func (s *session) handleError(payload []byte) failure {
	m, err := wire.DecodeErrorMsg(payload)
	if err != nil {
		return malformed(wire.TypeError, err)
	}
	s.refused = true
	return &ServerError{
		Code:              Code(m.Code),
		Message:           m.Message,
		RetryAfter:        time.Duration(m.RetryAfterMs) * time.Millisecond,
		SupportedVersions: m.SupportedVersions,
		ConnectionID:      validConnectionID(m.ConnectionID),
	}
}
