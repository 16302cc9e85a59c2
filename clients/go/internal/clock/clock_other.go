//go:build !linux

package clock

import "time"

// SuspensionCertain says whether a jump of Reading.Suspended is certainly a suspension.
const SuspensionCertain = false

var start = time.Now()

// Now reads the monotonic clock behind time.Now.
func Now() time.Duration { return time.Since(start) }

// Read reads both clocks.
func Read() Reading {
	now := time.Now()
	monotonic := now.Sub(start)
	return Reading{Now: monotonic, Suspended: time.Duration(now.UnixNano()) - monotonic}
}

// SleepShort sleeps for d, which should be a few milliseconds at most.
func SleepShort(d time.Duration) { time.Sleep(d) }
