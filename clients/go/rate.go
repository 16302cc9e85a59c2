package tickstorm

import (
	"math"
	"time"
)

const (
	// assumedPPM is the drift between the clocks of two machines that is assumed without evidence
	// of more, in parts per million.
	assumedPPM = 200
	// ppmMax is the largest drift that is believed.
	ppmMax = 100_000
	// rateWindow is the time over which the best sample is chosen.
	rateWindow = 20 * time.Second
	// rateApartMin is the shortest time between two points that shows a rate.
	rateApartMin = 5 * time.Second
	// ratePoints is the number of points that are kept.
	ratePoints = 5
	// ratesMin is the smallest number of rates between neighbours that shows a rate. All must agree,
	// so that a jump of a clock is not taken for one.
	ratesMin = 3
	// rateSpanMin is the shortest time between the first and the last point that shows a rate.
	rateSpanMin = time.Minute
)

// ratePoint is an offset at one moment.
type ratePoint struct {
	at     instant
	offset int64
	err    time.Duration
}

// rateWatch is the rate of this machine's clock against authority time, over minutes. It belongs to
// the machine, so it is kept until it has been measured again.
type rateWatch struct {
	points []ratePoint
	// best is the best point of the current window, which began at from. It is nil between windows.
	best *ratePoint
	from instant
	// measured is the largest drift, in parts per million, that the last measurement allows, if it
	// certainly exceeded assumedPPM.
	measured int64
}

func (r *rateWatch) handleSample(point ratePoint) {
	if r.best == nil {
		r.best, r.from = &point, point.at
		return
	}
	if point.err < r.best.err {
		*r.best = point
	}
	if point.at-r.from < rateWindow {
		return
	}
	if len(r.points) == ratePoints {
		r.points = append(r.points[:0:0], r.points[1:]...)
	}
	r.points = append(r.points, *r.best)
	r.best = nil
	r.measure()
}

// restart forgets all points, because offsets to come do not continue those so far.
func (r *rateWatch) restart() { r.points, r.best = nil, nil }

// driftPPM returns the drift to assume, in parts per million.
func (r *rateWatch) driftPPM() int64 {
	if r.measured > assumedPPM {
		return r.measured
	}
	return assumedPPM
}

func (r *rateWatch) measure() {
	first := r.points[0]
	if r.points[len(r.points)-1].at-first.at < rateSpanMin {
		return
	}
	least, most := math.Inf(-1), math.Inf(1)
	rates, bound, exceeding, falling := 0, 0.0, 0, 0
	for earlier, later := first, 1; later < len(r.points); later++ {
		point := r.points[later]
		if point.at-earlier.at < rateApartMin {
			continue
		}
		low, high := rateBetween(earlier, point)
		earlier = point
		rates++
		least, most = math.Max(least, low), math.Min(most, high)
		bound = math.Max(bound, math.Max(math.Abs(low), math.Abs(high)))
		if low > assumedPPM {
			exceeding++
		}
		if high < -assumedPPM {
			falling++
		}
	}
	// A clock that jumped has another rate each time. The edge's clock may be slewed meanwhile.
	if rates < ratesMin || least > most+assumedPPM {
		return
	}
	limit := int64(math.Min(bound, ppmMax))
	if exceeding == rates || falling == rates || limit < r.measured {
		r.measured = limit
	}
}

// rateBetween returns the interval in which the rate between two points lies, in parts per million.
func rateBetween(earlier, later ratePoint) (least, most float64) {
	apart := float64(later.at - earlier.at)
	moved := float64(later.offset) - float64(earlier.offset)
	if difference, ok := subtract(later.offset, earlier.offset); ok {
		moved = float64(difference)
	}
	errors := float64(earlier.err) + float64(later.err)
	ppm := func(ns float64) float64 { return math.Trunc(ns * 1e6 / apart) }
	return ppm(moved - errors), ppm(moved + errors)
}
