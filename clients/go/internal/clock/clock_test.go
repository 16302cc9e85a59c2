package clock

import (
	"testing"
	"time"
)

func TestTheClocksAreReadAsTheyRun(t *testing.T) {
	first := Read()
	for last := first; last.Now < first.Now+20*time.Millisecond; {
		next := Read()
		if next.Now < last.Now {
			t.Fatalf("%v follows %v", next.Now, last.Now)
		}
		last = next
	}
	// The machine is hardly suspended in the middle of this test, nor its wall clock set.
	last := Read()
	if d := last.Suspended - first.Suspended; d <= -10*time.Millisecond || d >= 10*time.Millisecond {
		t.Errorf("the time suspended changed by %v in %v", d, last.Now-first.Now)
	}
}

func TestAShortSleepLastsAtLeastThatLong(t *testing.T) {
	before := Now()
	SleepShort(2 * time.Millisecond)
	if slept := Now() - before; slept < 1900*time.Microsecond {
		t.Errorf("slept for %v", slept)
	}
}
