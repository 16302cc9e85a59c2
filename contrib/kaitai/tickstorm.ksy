meta:
  id: tickstorm
  title: Frames of the TickStorm client protocol, version 1
  file-extension: tickstorm
  endian: be
  license: MIT
  bit-endian: be
doc: |
  One direction of a TickStorm connection: frames, and nothing else. docs/protocol.md describes the
  protocol. The payloads are Protobuf messages, whose fields are here as pairs of a key and a value;
  proto/tickstorm/v1/stream.proto says what they mean. The checksum is not verified, since Kaitai
  Struct has no CRC32C: it covers the header and the payload.
seq:
  - id: frames
    type: frame
    repeat: eos
types:
  frame:
    seq:
      - id: magic
        contents: [0xf5, 0x7d]
      - id: version
        type: u1
        valid: 1
      - id: type
        type: u1
        enum: frame_type
      - id: len_payload
        type: u4
        valid:
          max: 65536
      - id: payload
        size: len_payload
        type:
          switch-on: type
          cases:
            'frame_type::auth': message
            'frame_type::subscribe': message
            'frame_type::heartbeat': message
            'frame_type::data_batch': message
            'frame_type::error': message
            'frame_type::ack': message
            'frame_type::pong': message
            'frame_type::going_away': message
        doc: The bytes themselves, if version 1 does not have the type.
      - id: crc32c
        type: u4
        doc: The CRC32C (Castagnoli) of all bytes of the frame before it.
  message:
    doc: A Protobuf message.
    seq:
      - id: fields
        type: field
        repeat: eos
  field:
    seq:
      - id: key
        type: varint
      - id: value
        type:
          switch-on: wire_type
          cases:
            0: varint
            1: u8le
            2: delimited
            5: u4le
    instances:
      number:
        value: key.value >> 3
        doc: The number of the field in proto/tickstorm/v1/stream.proto.
      wire_type:
        value: key.value & 7
  delimited:
    doc: A string, bytes, a message such as a Tick, or packed numbers.
    seq:
      - id: len
        type: varint
      - id: body
        size: len.value
  varint:
    doc: |
      An integer in groups of seven bits, the least significant one first. An int64 that is
      negative has ten groups: take the value as a signed number of 64 bits. It is multiplied and
      not shifted, since JavaScript shifts numbers of 32 bits only; there, values are exact up to
      2^53. No factor exceeds the largest int64.
    seq:
      - id: groups
        type: group
        repeat: until
        repeat-until: not _.has_next
    instances:
      value:
        value: >-
          groups[0].value
          + (groups.size > 1 ? groups[1].value * 128 : 0)
          + (groups.size > 2 ? groups[2].value * 16384 : 0)
          + (groups.size > 3 ? groups[3].value * 2097152 : 0)
          + (groups.size > 4 ? groups[4].value * 268435456 : 0)
          + (groups.size > 5 ? groups[5].value * 34359738368 : 0)
          + (groups.size > 6 ? groups[6].value * 4398046511104 : 0)
          + (groups.size > 7 ? groups[7].value * 562949953421312 : 0)
          + (groups.size > 8 ? groups[8].value * 72057594037927936 : 0)
          + (groups.size > 9 ? groups[9].value * 72057594037927936 * 128 : 0)
  group:
    seq:
      - id: has_next
        type: b1
      - id: value
        type: b7
enums:
  frame_type:
    0x01: auth
    0x02: subscribe
    0x03: heartbeat
    0x04: data_batch
    0x05: error
    0x06: ack
    0x07: pong
    0x80: going_away
