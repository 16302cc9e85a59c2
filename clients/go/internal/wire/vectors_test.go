package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"reflect"
	"testing"

	"tickstorm.dev/client/internal/conformance"
)

type frameCase struct {
	ID          string
	Hex         string
	Reader      string
	OK          bool
	Type        string
	Payload     object
	UnknownType int `json:"unknown_type"`
	Canonical   bool
	Error       string
	AfterBytes  int `json:"after_bytes"`
}

type streamCase struct {
	ID         string
	Hex        string
	Reader     string
	Frames     []frameCase
	Error      string
	AfterBytes int `json:"after_bytes"`
}

type frameFile struct {
	Checksums []struct{ Hex, Crc32c string }
	Cases     []frameCase
	Streams   []streamCase
}

var knownTypes = []Type{TypeAuth, TypeSubscribe, TypeHeartbeat, TypeDataBatch, TypeError, TypeAck,
	TypePong, TypeGoingAway}

func TestVectorsOfFrames(t *testing.T) {
	var file frameFile
	conformance.Load(t, "frames.json", &file)
	good, bad := 0, 0
	for _, c := range file.Cases {
		if c.Reader == "edge" {
			continue
		}
		c := c
		if c.OK {
			good++
		} else {
			bad++
		}
		t.Run(c.ID, func(t *testing.T) { c.check(t) })
	}
	if good < 20 || bad < 20 {
		t.Fatalf("only %d good and %d bad frames for a client", good, bad)
	}
}

func (c *frameCase) check(t *testing.T) {
	raw := unhex(t, c.Hex)
	if !c.OK {
		if code, after := firstError(raw); code != c.Error || after != c.AfterBytes {
			t.Fatalf("%s after %d bytes, but expected %s after %d", code, after, c.Error, c.AfterBytes)
		}
		return
	}
	var d Decoder
	d.Feed(raw)
	frame, ok, err := d.Next()
	if err != nil || !ok {
		t.Fatalf("no frame: %v", err)
	}
	c.compare(t, frame)
	if c.Canonical {
		if written := AppendFrame(nil, frame.Type, encode(frame)); !bytes.Equal(written, raw) {
			t.Errorf("written as %x", written)
		}
	}
}

// compare compares a frame with what is expected.
func (c *frameCase) compare(t *testing.T, frame Frame) {
	if c.Type == "" {
		if int(frame.Type) != c.UnknownType {
			t.Fatalf("the type is %v", frame.Type)
		}
		return
	}
	if frame.Type.String() != c.Type {
		t.Fatalf("the type is %v", frame.Type)
	}
	got, err := describe(frame.Type, frame.Payload)
	if err != nil {
		t.Fatal(err)
	}
	want := c.Payload
	if want == nil {
		want = object{}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("decoded as\n%v, but expected\n%v", got, want)
	}
}

// encode decodes a client's payload and writes it again; other payloads are kept.
func encode(frame Frame) []byte {
	switch frame.Type {
	case TypeAuth:
		m, _ := decodeAuth(frame.Payload)
		return m.Append(nil)
	case TypeSubscribe:
		m, _ := decodeSubscribe(frame.Payload)
		return m.Append(nil)
	case TypeHeartbeat:
		at, _ := decodeHeartbeat(frame.Payload)
		return AppendNumber(nil, 1, at)
	}
	return frame.Payload
}

// firstError feeds bytes one by one, and returns the code of the first error and the number of
// bytes that decided it.
func firstError(raw []byte) (string, int) {
	var d Decoder
	for i := range raw {
		d.Feed(raw[i : i+1])
		frame, ok, err := d.Next()
		if err != nil {
			return err.(*FrameError).Code, i + 1
		}
		if ok {
			if _, err := describe(frame.Type, frame.Payload); err != nil {
				return "MALFORMED_PAYLOAD", i + 1
			}
		}
	}
	return "", len(raw)
}

func TestVectorsOfStreams(t *testing.T) {
	var file frameFile
	conformance.Load(t, "frames.json", &file)
	if len(file.Streams) == 0 {
		t.Fatal("no streams")
	}
	for _, c := range file.Streams {
		c := c
		t.Run(c.ID, func(t *testing.T) {
			raw := unhex(t, c.Hex)
			c.check(t, raw)
			var single [][]byte
			for i := range raw {
				single = append(single, raw[i:i+1])
				c.check(t, raw[:i], raw[i:])
			}
			c.check(t, single...)
		})
	}
}

// check reads the pieces of a stream.
func (c *streamCase) check(t *testing.T, pieces ...[]byte) {
	t.Helper()
	var d Decoder
	frames, fed := 0, 0
	for _, piece := range pieces {
		before := fed
		d.Feed(piece)
		fed += len(piece)
		for {
			frame, ok, err := d.Next()
			if err != nil {
				if code := err.(*FrameError).Code; code != c.Error || frames != len(c.Frames) {
					t.Fatalf("%s after %d frames", code, frames)
				}
				if before >= c.AfterBytes || fed < c.AfterBytes {
					t.Fatalf("%s with byte %d to %d, but expected with byte %d", c.Error, before+1,
						fed, c.AfterBytes)
				}
				return
			}
			if !ok {
				break
			}
			if frames == len(c.Frames) {
				t.Fatalf("more than %d frames", frames)
			}
			c.Frames[frames].compare(t, frame)
			frames++
		}
	}
	if c.Error != "" || frames != len(c.Frames) {
		t.Fatalf("%d frames and no error", frames)
	}
}

func TestVectorsOfChecksums(t *testing.T) {
	var file frameFile
	conformance.Load(t, "frames.json", &file)
	if len(file.Checksums) == 0 {
		t.Fatal("no checksums")
	}
	for _, c := range file.Checksums {
		sum := crc32.Checksum(unhex(t, c.Hex), castagnoli)
		if got := fmt.Sprintf("%08x", sum); got != c.Crc32c {
			t.Errorf("the CRC32C of %s is %s, but expected %s", c.Hex, got, c.Crc32c)
		}
	}
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
