package tickstorm

import (
	"testing"
	"time"

	"tickstorm.dev/client/internal/conformance"
)

type modeCase struct {
	ID      string
	OldMode string `json:"old_mode"`
	NewMode string `json:"new_mode"`
	Last    int64  `json:"last_epoch_ms,string"`
	Present *struct {
		AuthorityUs int64  `json:"authority_us,string"`
		ErrorUs     uint32 `json:"error_us"`
	}
	ReceivedBefore *int64 `json:"received_before_epoch_ms,string"`
	ResumeAfter    *int64 `json:"resume_after_epoch_ms,string"`
}

func TestVectorsOfModes(t *testing.T) {
	var file struct{ Modes []modeCase }
	conformance.Load(t, "modes.json", &file)
	if len(file.Modes) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range file.Modes {
		c := c
		t.Run(c.ID, func(t *testing.T) {
			got, want := c.place(t).point, c.ResumeAfter
			switch {
			case got == nil && want == nil:
			case got == nil || want == nil:
				t.Errorf("the resume point is missing: %v, want %v", got != nil, want != nil)
			case *got != *want:
				t.Errorf("the resume point is %d, want %d", *got, *want)
			}
		})
	}
}

// place returns where the subscription to the new mode starts.
func (c *modeCase) place(t *testing.T) position {
	now := time.Hour
	s := newSim(t, settings{addresses: []string{"a"}}, constant(0)).sub
	oldMode, newMode := modeOfCase(t, c.OldMode), modeOfCase(t, c.NewMode)
	s.position = position{mode: oldMode, point: &c.Last}
	if c.ReceivedBefore != nil {
		s.positions[newMode] = &position{mode: newMode, point: c.ReceivedBefore}
	}
	if p := c.Present; p != nil {
		nowUs := int64(now / time.Microsecond)
		s.est.handleExchange(exchange{
			t1Us: nowUs, t2Us: p.AuthorityUs, t3Us: p.AuthorityUs, t4: now, errorBoundUs: p.ErrorUs,
		})
	}
	return s.placeIn(newMode, now)
}

func modeOfCase(t *testing.T, name string) Mode {
	switch name {
	case "SECOND":
		return ModeSecond
	case "MINUTE":
		return ModeMinute
	}
	t.Fatalf("%s is no mode", name)
	return 0
}
