package wire

import (
	"encoding/binary"
	"errors"
	"math"
	"unicode/utf8"
)

// The wire types of Protobuf.
const (
	wireVarint     = 0
	wireFixed64    = 1
	wireBytes      = 2
	wireGroupStart = 3
	wireGroupEnd   = 4
	wireFixed32    = 5

	// fieldMax is the highest number that a field can have.
	fieldMax = 1<<29 - 1
	// depthMax bounds how deeply unknown groups may be nested.
	depthMax = 100
)

var (
	errTruncated = errors.New("the payload ends in the middle of a field")
	errVarint    = errors.New("a number in the payload is longer than 64 bits")
	errTag       = errors.New("a field of the payload has an invalid tag")
	errWireType  = errors.New("a field of the payload has the wrong wire type")
	errUTF8      = errors.New("a text in the payload is not valid UTF-8")
	errGroup     = errors.New("a group in the payload does not end as it should")
)

// field is one field of a message, as it was read.
type field struct {
	number   uint32
	wireType uint8
	varint   uint64
	bytes    []byte
}

// eachField reads the fields of a message, and calls handle for each one. Fields of a wire type
// that no message has, such as groups, are skipped.
func eachField(payload []byte, handle func(*field) error) error {
	for len(payload) > 0 {
		var f field
		var err error
		if payload, err = f.read(payload, 0); err != nil {
			return err
		}
		if err = handle(&f); err != nil {
			return err
		}
	}
	return nil
}

// read reads one field from the front of b, and returns the rest.
func (f *field) read(b []byte, depth int) ([]byte, error) {
	tag, b, err := readVarint(b)
	if err != nil {
		return nil, err
	}
	if number := tag >> 3; number == 0 || number > fieldMax {
		return nil, errTag
	}
	f.number, f.wireType = uint32(tag>>3), uint8(tag&7)
	switch f.wireType {
	case wireVarint:
		f.varint, b, err = readVarint(b)
		return b, err
	case wireFixed64:
		return skip(b, 8)
	case wireFixed32:
		return skip(b, 4)
	case wireBytes:
		length, b, err := readVarint(b)
		if err != nil {
			return nil, err
		}
		if length > uint64(len(b)) {
			return nil, errTruncated
		}
		f.bytes = b[:length]
		return b[length:], nil
	case wireGroupStart:
		return skipGroup(b, f.number, depth+1)
	}
	return nil, errTag
}

// skipGroup skips the fields of a group and its end.
func skipGroup(b []byte, number uint32, depth int) ([]byte, error) {
	if depth > depthMax {
		return nil, errGroup
	}
	for {
		tag, rest, err := readVarint(b)
		if err != nil {
			return nil, err
		}
		if tag&7 == wireGroupEnd {
			if tag>>3 != uint64(number) {
				return nil, errGroup
			}
			return rest, nil
		}
		var inner field
		if b, err = inner.read(b, depth); err != nil {
			return nil, err
		}
	}
}

func skip(b []byte, length int) ([]byte, error) {
	if len(b) < length {
		return nil, errTruncated
	}
	return b[length:], nil
}

func readVarint(b []byte) (uint64, []byte, error) {
	value, length := binary.Uvarint(b)
	switch {
	case length == 0 && len(b) < binary.MaxVarintLen64:
		return 0, nil, errTruncated
	case length <= 0:
		return 0, nil, errVarint
	}
	return value, b[length:], nil
}

func (f *field) int64(to *int64) error {
	if f.wireType != wireVarint {
		return errWireType
	}
	*to = int64(f.varint)
	return nil
}

func (f *field) int32(to *int32) error {
	if f.wireType != wireVarint {
		return errWireType
	}
	*to = int32(f.varint)
	return nil
}

func (f *field) uint32(to *uint32) error {
	if f.wireType != wireVarint {
		return errWireType
	}
	*to = uint32(f.varint)
	return nil
}

func (f *field) text(to *string) error {
	if f.wireType != wireBytes {
		return errWireType
	}
	if !utf8.Valid(f.bytes) {
		return errUTF8
	}
	*to = string(f.bytes)
	return nil
}

func (f *field) blob(to *[]byte) error {
	if f.wireType != wireBytes {
		return errWireType
	}
	*to = append([]byte(nil), f.bytes...)
	return nil
}

// uint32s appends the numbers of a repeated field, which may be packed.
func (f *field) uint32s(to *[]uint32) error {
	if f.wireType == wireVarint {
		*to = append(*to, uint32(f.varint))
		return nil
	}
	if f.wireType != wireBytes {
		return errWireType
	}
	for packed := f.bytes; len(packed) > 0; {
		value, rest, err := readVarint(packed)
		if err != nil {
			return err
		}
		*to = append(*to, uint32(value))
		packed = rest
	}
	return nil
}

// AppendVarint appends a numeric field to a message, even if its value is 0.
func AppendVarint(dst []byte, number uint32, value uint64) []byte {
	dst = binary.AppendUvarint(dst, uint64(number)<<3|wireVarint)
	return binary.AppendUvarint(dst, value)
}

// AppendNumber appends a numeric field to a message, unless it has its default value.
func AppendNumber(dst []byte, number uint32, value int64) []byte {
	if value == 0 {
		return dst
	}
	return AppendVarint(dst, number, uint64(value))
}

// AppendBytes appends a text, some bytes or a message to a message, unless it is empty.
func AppendBytes(dst []byte, number uint32, value []byte) []byte {
	if len(value) == 0 || len(value) > math.MaxInt32 {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(number)<<3|wireBytes)
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	return append(dst, value...)
}
