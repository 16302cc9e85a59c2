package wire

// Auth is the payload of AUTH. Its text never shows a secret.
type Auth struct {
	Username      string
	Password      string
	ClientID      string
	ClientVersion string
	Token         string
	Cookie        []byte
}

// String leaves out everything that is secret.
func (a Auth) String() string { return "Auth{username: " + a.Username + "}" }

// GoString leaves out everything that is secret.
func (a Auth) GoString() string { return a.String() }

// Append appends the encoded message to dst.
func (a *Auth) Append(dst []byte) []byte {
	dst = AppendBytes(dst, 1, []byte(a.Username))
	dst = AppendBytes(dst, 2, []byte(a.Password))
	dst = AppendBytes(dst, 3, []byte(a.ClientID))
	dst = AppendBytes(dst, 4, []byte(a.ClientVersion))
	dst = AppendBytes(dst, 5, []byte(a.Token))
	return AppendBytes(dst, 6, a.Cookie)
}

// Subscribe is the payload of SUBSCRIBE.
type Subscribe struct {
	Mode int32
	// ResumeAfterEpochMs is nil if there is no resume point: 0 is one.
	ResumeAfterEpochMs *int64
	Ahead              bool
}

// Append appends the encoded message to dst.
func (s *Subscribe) Append(dst []byte) []byte {
	dst = AppendNumber(dst, 1, int64(s.Mode))
	if s.ResumeAfterEpochMs != nil {
		dst = AppendVarint(dst, 5, uint64(*s.ResumeAfterEpochMs))
	}
	if s.Ahead {
		dst = AppendVarint(dst, 6, 1)
	}
	return dst
}

// AppendHeartbeat appends a HEARTBEAT frame with this reading of the client's clock to dst.
func AppendHeartbeat(dst []byte, clientTimeUs int64) []byte {
	return AppendFrame(dst, TypeHeartbeat, AppendNumber(nil, 1, clientTimeUs))
}

// Pong is the payload of PONG.
type Pong struct {
	ClientTimeUs   int64
	ReceivedUnixUs int64
	SentUnixUs     int64
	ErrorBoundUs   uint32
	ClockErrorUs   uint32
}

// DecodePong decodes the payload of a PONG.
func DecodePong(payload []byte) (Pong, error) {
	var m Pong
	err := eachField(payload, func(f *field) error {
		switch f.number {
		case 1:
			return f.int64(&m.ClientTimeUs)
		case 2:
			return f.int64(&m.ReceivedUnixUs)
		case 3:
			return f.int64(&m.SentUnixUs)
		case 4:
			return f.uint32(&m.ErrorBoundUs)
		case 5:
			return f.uint32(&m.ClockErrorUs)
		}
		return nil
	})
	return m, err
}

// Tick is one tick of a DATA_BATCH.
type Tick struct {
	Mode    int32
	EpochMs int64
	Quality int32
}

func decodeTick(payload []byte) (Tick, error) {
	var m Tick
	err := eachField(payload, func(f *field) error {
		switch f.number {
		case 1:
			return f.int32(&m.Mode)
		case 2:
			return f.int64(&m.EpochMs)
		case 3:
			return f.int32(&m.Quality)
		}
		return nil
	})
	return m, err
}

// DataBatch is the payload of DATA_BATCH.
type DataBatch struct {
	SchemaVersion uint32
	Ticks         []Tick
	SentUnixUs    int64
}

// DecodeDataBatch decodes the payload of a DATA_BATCH.
func DecodeDataBatch(payload []byte) (DataBatch, error) {
	var m DataBatch
	err := eachField(payload, func(f *field) error {
		switch f.number {
		case 1:
			return f.uint32(&m.SchemaVersion)
		case 2:
			if f.wireType != wireBytes {
				return errWireType
			}
			tick, err := decodeTick(f.bytes)
			m.Ticks = append(m.Ticks, tick)
			return err
		case 3:
			return f.int64(&m.SentUnixUs)
		}
		return nil
	})
	return m, err
}

// Ack is the payload of ACK. Its text never shows the cookie.
type Ack struct {
	AckedType           uint32
	HeartbeatIntervalMs uint32
	HeartbeatTimeoutMs  uint32
	EdgeID              string
	StartEpochMs        int64
	ProtocolMinor       uint32
	ConnectionID        string
	FrameRateLimit      uint32
	Cookie              []byte
}

// String leaves out the cookie.
func (a Ack) String() string { return "Ack{edge_id: " + a.EdgeID + "}" }

// GoString leaves out the cookie.
func (a Ack) GoString() string { return a.String() }

// DecodeAck decodes the payload of an ACK.
func DecodeAck(payload []byte) (Ack, error) {
	var m Ack
	err := eachField(payload, func(f *field) error {
		switch f.number {
		case 1:
			return f.uint32(&m.AckedType)
		case 2:
			return f.uint32(&m.HeartbeatIntervalMs)
		case 3:
			return f.uint32(&m.HeartbeatTimeoutMs)
		case 4:
			return f.text(&m.EdgeID)
		case 5:
			return f.int64(&m.StartEpochMs)
		case 6:
			return f.uint32(&m.ProtocolMinor)
		case 7:
			return f.text(&m.ConnectionID)
		case 8:
			return f.uint32(&m.FrameRateLimit)
		case 9:
			return f.blob(&m.Cookie)
		}
		return nil
	})
	return m, err
}

// ErrorMsg is the payload of ERROR.
type ErrorMsg struct {
	Code              string
	Message           string
	RetryAfterMs      uint32
	SupportedVersions []uint32
	ConnectionID      string
}

// DecodeErrorMsg decodes the payload of an ERROR.
func DecodeErrorMsg(payload []byte) (ErrorMsg, error) {
	var m ErrorMsg
	err := eachField(payload, func(f *field) error {
		switch f.number {
		case 1:
			return f.text(&m.Code)
		case 2:
			return f.text(&m.Message)
		case 3:
			return f.uint32(&m.RetryAfterMs)
		case 4:
			return f.uint32s(&m.SupportedVersions)
		case 5:
			return f.text(&m.ConnectionID)
		}
		return nil
	})
	return m, err
}

// GoingAway is the payload of GOING_AWAY.
type GoingAway struct {
	DeadlineMs uint32
	Reason     string
}

// DecodeGoingAway decodes the payload of a GOING_AWAY.
func DecodeGoingAway(payload []byte) (GoingAway, error) {
	var m GoingAway
	err := eachField(payload, func(f *field) error {
		switch f.number {
		case 1:
			return f.uint32(&m.DeadlineMs)
		case 2:
			return f.text(&m.Reason)
		}
		return nil
	})
	return m, err
}
