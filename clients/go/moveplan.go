package tickstorm

import "time"

const (
	// The margin is kept for the move itself. A move usually takes milliseconds; an attempt that
	// fails must leave time for others.
	moveMarginDivisor = 4
	moveMarginMin     = 500 * time.Millisecond
	moveMarginMax     = 5 * time.Second
	// moveRetryMin is the longest wait after the first failed attempt. It doubles with each one.
	moveRetryMin = 500 * time.Millisecond
	moveRetryMax = 4 * time.Second
)

// movePlan is when a client that its edge has asked to move tries another edge.
type movePlan struct {
	deadline instant
	next     instant
	retry    time.Duration
}

// newMovePlan plans a move that must be over within a time. Many clients are asked at once, so each
// moves at a random moment.
func newMovePlan(within time.Duration, now instant, random uint32) movePlan {
	return movePlan{
		deadline: now + within,
		next:     now + fraction(moveSpan(within), random),
		retry:    moveRetryMin,
	}
}

// handleAgain records that the edge asks again. Its new deadline holds.
func (p *movePlan) handleAgain(within time.Duration, now instant, random uint32) {
	again := newMovePlan(within, now, random)
	if now > p.deadline {
		*p = again
		return
	}
	p.deadline = again.deadline
	// The moment that was chosen is kept, unless it is now too late.
	if p.next > now+moveSpan(within) {
		p.next = minOf(p.next, again.next)
	}
}

// nextAttempt returns when to make the next attempt, or never.
func (p *movePlan) nextAttempt() instant {
	if p.next > p.deadline {
		return never
	}
	return p.next
}

// handleFailure records that an attempt failed, and that the next address may be tried from rested
// on.
func (p *movePlan) handleFailure(rested, now instant, random uint32) {
	wait := p.retry/2 + fraction(p.retry/2, random)
	p.next = maxOf(now+wait, rested)
	p.retry = minOf(p.retry*2, moveRetryMax)
}

// moveSpan returns the time over which clients spread their first attempts.
func moveSpan(within time.Duration) time.Duration {
	margin := minOf(maxOf(within/moveMarginDivisor, moveMarginMin), moveMarginMax)
	return maxOf(within-margin, 0)
}
