package tickstorm

import (
	"fmt"
	"math"
	"time"
)

// Mode says which ticks to subscribe to. The numbers are those of the protocol.
type Mode int32

const (
	// ModeSecond stands for a tick at the start of each second.
	ModeSecond Mode = 0
	// ModeMinute stands for a tick at the start of each minute.
	ModeMinute Mode = 1
)

// String returns SECOND or MINUTE.
func (m Mode) String() string {
	switch m {
	case ModeSecond:
		return "SECOND"
	case ModeMinute:
		return "MINUTE"
	}
	return fmt.Sprintf("Mode(%d)", int32(m))
}

// ParseMode returns the mode with this name, in upper or lower case.
func ParseMode(name string) (Mode, error) {
	switch name {
	case "second", "SECOND":
		return ModeSecond, nil
	case "minute", "MINUTE":
		return ModeMinute, nil
	}
	return 0, fmt.Errorf("tickstorm: the mode is %q, but must be second or minute", name)
}

// Period returns the time between two ticks.
func (m Mode) Period() time.Duration {
	if m == ModeMinute {
		return time.Minute
	}
	return time.Second
}

func (m Mode) periodMs() int64 { return m.Period().Milliseconds() }

func (m Mode) isKnown() bool { return m == ModeSecond || m == ModeMinute }

// nextAfter returns the first tick after a time, both in milliseconds. There is none after the end
// of time.
func (m Mode) nextAfter(epochMs int64) int64 {
	period := m.periodMs()
	remainder := epochMs % period
	if remainder < 0 {
		remainder += period
	}
	if epochMs > math.MaxInt64-period {
		return math.MaxInt64
	}
	return epochMs - remainder + period
}

// Quality says on what grounds an edge released a tick. The numbers are those of the protocol.
type Quality int32

const (
	// QualityNormal means that a clock which the edge accepts announced the tick.
	QualityNormal Quality = 0
	// QualityHoldover means that the edge continued from its own disciplined time.
	QualityHoldover Quality = 1
	// QualityReplay means that the tick was sent more than a second after its time, or because the
	// client resumed.
	QualityReplay Quality = 2
)

// String returns NORMAL, HOLDOVER or REPLAY.
func (q Quality) String() string {
	switch q {
	case QualityNormal:
		return "NORMAL"
	case QualityHoldover:
		return "HOLDOVER"
	case QualityReplay:
		return "REPLAY"
	}
	return fmt.Sprintf("Quality(%d)", int32(q))
}

// qualityOf returns the quality with this number. One that is not known counts as NORMAL.
func qualityOf(number int32) Quality {
	switch q := Quality(number); q {
	case QualityHoldover, QualityReplay:
		return q
	}
	return QualityNormal
}

// Estimate is authority time at one moment, as far as a client can tell.
type Estimate struct {
	// Time is the best estimate.
	Time time.Time
	// Error bounds the difference to the clock that the edge follows.
	Error time.Duration
}

// Tick is a tick as this client received it. A tick is identified by its mode and its time.
type Tick struct {
	// Mode is the mode of the subscription.
	Mode Mode
	// EpochMs is the Unix time of the tick in milliseconds, a multiple of the mode's period.
	EpochMs int64
	// Quality says on what grounds the edge released the tick.
	Quality Quality
	// Received is the authority time at which this client read the tick or, if it held the tick
	// until its time, released it. It is nil if authority time was not known then.
	Received *Estimate
}

// Time returns the tick's time in UTC.
func (t Tick) Time() time.Time { return time.UnixMilli(t.EpochMs).UTC() }

// Late returns how long after its time this client read or released the tick, give or take
// Received.Error. It is negative if the tick appears to have been early. It returns false if
// authority time was not known.
func (t Tick) Late() (time.Duration, bool) {
	if t.Received == nil {
		return 0, false
	}
	return t.Received.Time.Sub(t.Time()), true
}

// String returns the tick's mode, time and quality.
func (t Tick) String() string {
	return fmt.Sprintf("%s %s %s", t.Mode, t.Time().Format("2006-01-02T15:04:05Z"), t.Quality)
}

// Event is something that happened to a subscription: a Tick, Gap, Reconnecting, Reconnected or
// Moved. Later versions may add others.
type Event interface{ isEvent() }

// Gap means that ticks are missing and cannot be obtained. The tick with BeforeEpochMs comes next.
type Gap struct {
	// Mode is the mode of the missing ticks.
	Mode Mode
	// AfterEpochMs is the last tick before the gap or, if there was none, the point after which
	// ticks were requested.
	AfterEpochMs int64
	// BeforeEpochMs is the first tick after the gap.
	BeforeEpochMs int64
}

// Reconnecting means that a connection ended, or that the last attempt to make a new one failed.
// The next attempt follows by itself.
type Reconnecting struct {
	// Address is the address of the connection that ended, or of the attempt that failed. It is one
	// of those in Options.
	Address string
	// Err is why the connection ended or the attempt failed.
	Err error
	// ConnectionID names the connection that ended, by which the edge's operator finds it in the
	// log. It is empty if the connection had no name.
	ConnectionID string
	// After is the wait before the next attempt.
	After time.Duration
	// Resumes says whether ticks continue after the last tick received, as they nearly always do.
	// If false, authority time was stepped back, or the edges refuse the resume point: ticks start
	// again at the next edge's present, so some may come again, and ticks that were held are
	// dropped.
	Resumes bool
}

// Reconnected means that a new connection was made, and that the client is subscribed again.
type Reconnected struct {
	// Address is the address of the edge, one of those in Options.
	Address string
	// EdgeID is the name that the edge gives itself. It may contain any characters.
	EdgeID string
	// ConnectionID names the new connection; it is empty if the edge gave it no name.
	ConnectionID string
}

// Moved means that the subscription moved to another edge because its edge is going away. There
// was a connection all the time.
type Moved struct {
	// Address is the address of the new edge, one of those in Options.
	Address string
	// EdgeID is the name that the new edge gives itself. It may contain any characters.
	EdgeID string
	// ConnectionID names the new connection; it is empty if the edge gave it no name.
	ConnectionID string
}

func (Tick) isEvent()         {}
func (Gap) isEvent()          {}
func (Reconnecting) isEvent() {}
func (Reconnected) isEvent()  {}
func (Moved) isEvent()        {}
