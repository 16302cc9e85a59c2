package tickstorm

import (
	"math"
	"time"
)

// instant is a reading of the machine's monotonic clock.
type instant = time.Duration

// never is later than all other instants.
const never instant = math.MaxInt64

const (
	// backoffMin is the upper bound of the first wait. Waits are random, so that clients which were
	// cut off together do not all come back together.
	backoffMin = time.Second
	backoffMax = 30 * time.Second
	// settledAfter is how long a subscription lasts for its end not to count as one more failure.
	settledAfter = 30 * time.Second
	// hintMax bounds the wait that an edge can ask for.
	hintMax = 60 * time.Second
)

// backoff is how long a client waits before it connects again, to whatever address.
type backoff struct {
	// bound is the upper bound of the next random wait; 0 stands for the first.
	bound time.Duration
}

// wait returns the wait before the next connection. hint is 0 if there is none. subscribedFor is
// how long the connection was subscribed. random is any number, a different one each time.
func (b *backoff) wait(hint, subscribedFor time.Duration, random uint32) time.Duration {
	if b.bound == 0 || subscribedFor >= settledAfter {
		b.bound = backoffMin
	}
	isFirst := b.bound == backoffMin
	drawn := fraction(b.bound, random)
	b.bound = minOf(b.bound*2, backoffMax)
	hint = minOf(hint, hintMax)
	if isFirst && hint > 0 {
		return hint
	}
	return maxOf(drawn, hint)
}

// fraction returns whole × random / MaxUint32.
func fraction(whole time.Duration, random uint32) time.Duration {
	return time.Duration(float64(whole) * (float64(random) / math.MaxUint32))
}

func minOf(a, b time.Duration) time.Duration {
	if a < b {
		return a
	}
	return b
}

func maxOf(a, b time.Duration) time.Duration {
	if a > b {
		return a
	}
	return b
}
