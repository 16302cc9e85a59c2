package clock

import (
	"syscall"
	"time"
	"unsafe"
)

// SuspensionCertain says whether a jump of Reading.Suspended is certainly a suspension.
const SuspensionCertain = true

// The numbers of clocks in Linux.
const (
	clockMonotonic    = 1
	clockMonotonicRaw = 4
	clockBoottime     = 7
)

const (
	// bracketMax is how far apart the two readings around a third one may be for it to count as
	// simultaneous with them. Suspensions of 10 ms must show.
	bracketMax = time.Millisecond
	// bracketTries bounds how often an interrupted reading is repeated.
	bracketTries = 8
)

func read(clock uintptr) time.Duration {
	var ts syscall.Timespec
	to := uintptr(unsafe.Pointer(&ts))
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clock, to, 0)
	if errno != 0 {
		// Every Linux that Go supports has these clocks.
		panic("clock_gettime: " + errno.Error())
	}
	return time.Duration(ts.Nano())
}

// Now reads CLOCK_MONOTONIC_RAW, which is not slewed: chrony slews CLOCK_MONOTONIC by up to 8 %.
func Now() time.Duration { return read(clockMonotonicRaw) }

// Read reads both clocks.
func Read() Reading {
	return Reading{Now: Now(), Suspended: suspended()}
}

// suspended returns CLOCK_BOOTTIME − CLOCK_MONOTONIC.
func suspended() time.Duration {
	var best, narrowest time.Duration
	for try := 0; try < bracketTries; try++ {
		before := read(clockMonotonic)
		boot := read(clockBoottime)
		bracket := read(clockMonotonic) - before
		if try == 0 || bracket < narrowest {
			best, narrowest = boot-before-bracket/2, bracket
		}
		if narrowest <= bracketMax {
			break
		}
	}
	return best
}

// SleepShort sleeps for d, which should be a few milliseconds at most, more exactly than
// time.Sleep, which rounds up to whole milliseconds if the process is idle.
func SleepShort(d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	// If a signal ends the sleep, the caller sleeps for the rest.
	_ = syscall.Nanosleep(&ts, nil)
}
