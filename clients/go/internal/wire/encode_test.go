package wire

import "fmt"

// The payloads that only edges decode, so that the vectors of these types can be checked.

func decodeAuth(payload []byte) (Auth, error) {
	var m Auth
	err := eachField(payload, func(f *field) error {
		switch f.number {
		case 1:
			return f.text(&m.Username)
		case 2:
			return f.text(&m.Password)
		case 3:
			return f.text(&m.ClientID)
		case 4:
			return f.text(&m.ClientVersion)
		case 5:
			return f.text(&m.Token)
		case 6:
			return f.blob(&m.Cookie)
		}
		return nil
	})
	return m, err
}

func decodeSubscribe(payload []byte) (Subscribe, error) {
	var m Subscribe
	err := eachField(payload, func(f *field) error {
		switch f.number {
		case 1:
			return f.int32(&m.Mode)
		case 5:
			m.ResumeAfterEpochMs = new(int64)
			return f.int64(m.ResumeAfterEpochMs)
		case 6:
			var ahead int64
			err := f.int64(&ahead)
			m.Ahead = ahead != 0
			return err
		}
		return nil
	})
	return m, err
}

func decodeHeartbeat(payload []byte) (int64, error) {
	var at int64
	err := eachField(payload, func(f *field) error {
		if f.number == 1 {
			return f.int64(&at)
		}
		return nil
	})
	return at, err
}

// object is a message in the form in which conformance/README.md describes it.
type object = map[string]any

func describe(t Type, payload []byte) (object, error) {
	switch t {
	case TypeAuth:
		m, err := decodeAuth(payload)
		return compact(object{"username": m.Username, "password": m.Password, "client_id": m.ClientID,
			"client_version": m.ClientVersion, "token": m.Token, "cookie": hexOf(m.Cookie)}), err
	case TypeSubscribe:
		m, err := decodeSubscribe(payload)
		o := compact(object{"mode": enum(m.Mode, "SECOND", "MINUTE"), "ahead": m.Ahead})
		if m.ResumeAfterEpochMs != nil {
			o["resume_after_epoch_ms"] = fmt.Sprint(*m.ResumeAfterEpochMs)
		}
		return o, err
	case TypeHeartbeat:
		at, err := decodeHeartbeat(payload)
		return compact(object{"client_time_us": long(at)}), err
	case TypeDataBatch:
		m, err := DecodeDataBatch(payload)
		var ticks []any
		for _, tick := range m.Ticks {
			ticks = append(ticks, compact(object{"mode": enum(tick.Mode, "SECOND", "MINUTE"),
				"epoch_ms": long(tick.EpochMs),
				"quality":  enum(tick.Quality, "NORMAL", "HOLDOVER", "REPLAY")}))
		}
		o := compact(object{"schema_version": float64(m.SchemaVersion),
			"sent_unix_us": long(m.SentUnixUs)})
		if ticks != nil {
			o["ticks"] = ticks
		}
		return o, err
	case TypeError:
		m, err := DecodeErrorMsg(payload)
		o := compact(object{"code": m.Code, "message": m.Message, "connection_id": m.ConnectionID,
			"retry_after_ms": float64(m.RetryAfterMs)})
		if len(m.SupportedVersions) > 0 {
			var versions []any
			for _, v := range m.SupportedVersions {
				versions = append(versions, float64(v))
			}
			o["supported_versions"] = versions
		}
		return o, err
	case TypeAck:
		m, err := DecodeAck(payload)
		return compact(object{"acked_type": float64(m.AckedType), "edge_id": m.EdgeID,
			"heartbeat_interval_ms": float64(m.HeartbeatIntervalMs),
			"heartbeat_timeout_ms":  float64(m.HeartbeatTimeoutMs),
			"start_epoch_ms":        long(m.StartEpochMs), "protocol_minor": float64(m.ProtocolMinor),
			"connection_id": m.ConnectionID, "frame_rate_limit": float64(m.FrameRateLimit),
			"cookie": hexOf(m.Cookie)}), err
	case TypePong:
		m, err := DecodePong(payload)
		return compact(object{"client_time_us": long(m.ClientTimeUs),
			"received_unix_us": long(m.ReceivedUnixUs), "sent_unix_us": long(m.SentUnixUs),
			"error_bound_us": float64(m.ErrorBoundUs), "clock_error_us": float64(m.ClockErrorUs)}), err
	case TypeGoingAway:
		m, err := DecodeGoingAway(payload)
		return compact(object{"deadline_ms": float64(m.DeadlineMs), "reason": m.Reason}), err
	}
	return nil, nil
}

func hexOf(b []byte) string { return fmt.Sprintf("%x", b) }

func long(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// enum returns the name of a value, nothing for the default, or a number that is not known.
func enum(value int32, names ...string) any {
	switch {
	case value == 0:
		return ""
	case value > 0 && int(value) < len(names):
		return names[value]
	}
	return float64(value)
}

// compact leaves out fields with their default value.
func compact(o object) object {
	for name, value := range o {
		switch value {
		case "", 0.0, false:
			delete(o, name)
		}
	}
	return o
}
