package wire

import (
	"bytes"
	"testing"
)

// However a stream is cut, the frames and the error in it are the same, nothing panics, and what
// was read is written again as the same bytes.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte("\xf5\x7d\x01\x03\x00\x00\x00\x00\xbc\x04\xcd\x7d"), uint8(1))
	f.Add(AppendHeartbeat(AppendHeartbeat(nil, 1_500_000), -1), uint8(5))
	batch := []byte("\x08\x01\x12\x07\x10\xe8\xa7\xf1\xc2\xb1\x34")
	f.Add(AppendFrame(nil, TypeDataBatch, batch), uint8(3))
	f.Add(AppendFrame(nil, TypeError, []byte("\x0a\x13UNSUPPORTED_VERSION\x22\x01\x01")), uint8(255))
	f.Add(AppendFrame(nil, TypeAck, []byte("\x08\x01\x22\x06edge-0\x4a\x01\x01")), uint8(2))
	f.Add(AppendFrame(nil, TypeGoingAway, []byte("\x08\xe0\x5d\x12\x03bye\x0b\x08\x01\x0c")), uint8(9))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		whole, wholeErr := split(stream, len(stream)+1)
		cut, cutErr := split(stream, int(piece)+1)
		if !bytes.Equal(whole, cut) || wholeErr != cutErr {
			t.Fatalf("read as a whole: %x, %q; in pieces: %x, %q", whole, wholeErr, cut, cutErr)
		}
		if !bytes.HasPrefix(stream, whole) {
			t.Fatalf("%x was read from %x", whole, stream)
		}
	})
}

// split reads a stream in pieces. It returns all frames, written again, and the error.
func split(stream []byte, size int) ([]byte, string) {
	var d Decoder
	var frames []byte
	for len(stream) > 0 {
		n := size
		if n > len(stream) {
			n = len(stream)
		}
		d.Feed(stream[:n])
		stream = stream[n:]
		for {
			frame, ok, err := d.Next()
			if err != nil {
				return frames, err.Error()
			}
			if !ok {
				break
			}
			frames = AppendFrame(frames, frame.Type, frame.Payload)
			// Whether it decodes does not matter, only that it does not panic.
			_, _ = describe(frame.Type, frame.Payload)
		}
	}
	return frames, ""
}
