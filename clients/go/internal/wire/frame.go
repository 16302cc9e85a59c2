// Package wire reads and writes the frames of the TickStorm client protocol and their Protobuf
// payloads. It knows how they are encoded, and nothing about sessions. The format is described in
// docs/protocol.md, sections Frames and Messages.
package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

const (
	// HeaderLen is the number of bytes before the payload: magic, version, type and length.
	HeaderLen = 8
	// Overhead is the length in bytes of a frame with an empty payload.
	Overhead = HeaderLen + checksumLen
	// PayloadMax is the largest payload in bytes that an edge sends.
	PayloadMax = 65_536
	// ClientPayloadMax is the largest payload in bytes that a client may send.
	ClientPayloadMax = 4_096

	checksumLen = 4
	magic0      = 0xF5
	magic1      = 0x7D
	version     = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Type is the type of a frame.
type Type byte

// The frame types of version 1.
const (
	TypeAuth      Type = 0x01
	TypeSubscribe Type = 0x02
	TypeHeartbeat Type = 0x03
	TypeDataBatch Type = 0x04
	TypeError     Type = 0x05
	TypeAck       Type = 0x06
	TypePong      Type = 0x07
	TypeGoingAway Type = 0x80
)

// String returns the type's name in the protocol's documentation.
func (t Type) String() string {
	switch t {
	case TypeAuth:
		return "AUTH"
	case TypeSubscribe:
		return "SUBSCRIBE"
	case TypeHeartbeat:
		return "HEARTBEAT"
	case TypeDataBatch:
		return "DATA_BATCH"
	case TypeError:
		return "ERROR"
	case TypeAck:
		return "ACK"
	case TypePong:
		return "PONG"
	case TypeGoingAway:
		return "GOING_AWAY"
	}
	return fmt.Sprintf("type 0x%02X", byte(t))
}

// AppendFrame appends a frame with this payload to dst.
func AppendFrame(dst []byte, t Type, payload []byte) []byte {
	start := len(dst)
	dst = append(dst, magic0, magic1, version, byte(t))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload)))
	dst = append(dst, payload...)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// FrameError says why bytes are not a valid frame. Code is the protocol's error code for it.
type FrameError struct {
	Code   string
	Reason string
}

// Error returns the reason.
func (e *FrameError) Error() string { return e.Reason }

// Frame is a frame that has passed all checks of its header and checksum. Its payload has not been
// decoded yet, and is only valid until the decoder is used again.
type Frame struct {
	Type    Type
	Payload []byte
}

// Decoder splits a stream of bytes into frames by the rules for a client, which accepts unknown
// types. It keeps at most one incomplete frame and the bytes last fed.
type Decoder struct {
	buf []byte
	// used is the number of bytes at the front of buf that belong to frames already returned.
	used   int
	failed *FrameError
}

// Feed appends bytes that were read.
func (d *Decoder) Feed(bytes []byte) {
	if d.failed == nil {
		d.buf = append(d.buf, bytes...)
	}
}

// Next returns the next frame. It returns false if more bytes are needed for it. An error is
// reported as soon as the byte that decides it has been fed, and again by each further call.
func (d *Decoder) Next() (Frame, bool, error) {
	if d.failed != nil {
		return Frame{}, false, d.failed
	}
	rest := d.buf[d.used:]
	size, err := check(rest)
	if err != nil {
		d.failed, d.buf = err, nil
		return Frame{}, false, err
	}
	if size == 0 || len(rest) < size {
		d.buf = d.buf[:copy(d.buf, rest)]
		d.used = 0
		return Frame{}, false, nil
	}
	d.used += size
	return Frame{Type: Type(rest[3]), Payload: rest[HeaderLen : size-checksumLen]}, true, nil
}

// check checks as much of the first frame as has arrived. It returns the frame's size in bytes, or
// 0 if the header is not complete yet.
func check(b []byte) (int, *FrameError) {
	for i, want := range []byte{magic0, magic1} {
		if len(b) > i && b[i] != want {
			return 0, &FrameError{"BAD_MAGIC", fmt.Sprintf("byte %d of a frame is 0x%02X, but a frame "+
				"starts with 0xF5 0x7D; is the other side using another protocol, or TLS?", i, b[i])}
		}
	}
	if len(b) > 2 && b[2] != version {
		return 0, &FrameError{"UNSUPPORTED_VERSION", fmt.Sprintf(
			"a frame has version %d, but this client only knows version %d", b[2], version)}
	}
	if len(b) < HeaderLen {
		return 0, nil
	}
	length := binary.BigEndian.Uint32(b[4:])
	if length > PayloadMax {
		return 0, &FrameError{"MESSAGE_TOO_LARGE", fmt.Sprintf(
			"a header claims a payload of %d bytes, but at most %d are allowed", length, PayloadMax)}
	}
	size := int(length) + Overhead
	if len(b) < size {
		return size, nil
	}
	found := binary.BigEndian.Uint32(b[size-checksumLen:])
	if computed := crc32.Checksum(b[:size-checksumLen], castagnoli); found != computed {
		return 0, &FrameError{"BAD_CHECKSUM", fmt.Sprintf(
			"a frame's checksum is 0x%08X, but the CRC32C of its header and payload is 0x%08X",
			found, computed)}
	}
	return size, nil
}
