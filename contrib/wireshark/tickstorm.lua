-- A Wireshark and tshark dissector of the TickStorm client protocol, version 1, as
-- docs/protocol.md describes it. README.md says how to use it.

local tickstorm = Proto("tickstorm", "TickStorm")

local HEADER_LEN, OVERHEAD, PAYLOAD_MAX = 8, 12, 65536
local DEFAULT_PORT = "8080"

local TYPES = {
  [0x01] = "AUTH", [0x02] = "SUBSCRIBE", [0x03] = "HEARTBEAT", [0x04] = "DATA_BATCH",
  [0x05] = "ERROR", [0x06] = "ACK", [0x07] = "PONG", [0x80] = "GOING_AWAY",
}
local MODES = { [0] = "SECOND", [1] = "MINUTE" }
local QUALITIES = { [0] = "NORMAL", [1] = "HOLDOVER", [2] = "REPLAY" }
local ACKED = { [1] = "AUTH", [2] = "SUBSCRIBE" }
local WIRE_TYPES = {
  [0] = "varint", [1] = "64 bits", [2] = "length-delimited", [3] = "start of a group",
  [4] = "end of a group", [5] = "32 bits",
}

local frame = {
  magic = ProtoField.uint16("tickstorm.magic", "Magic", base.HEX),
  version = ProtoField.uint8("tickstorm.version", "Version", base.DEC),
  type = ProtoField.uint8("tickstorm.type", "Type", base.HEX, TYPES),
  len = ProtoField.uint32("tickstorm.len", "Payload length", base.UNIT_STRING, { " bytes" }),
  crc = ProtoField.uint32("tickstorm.crc", "CRC32C", base.HEX),
  crc_is_valid = ProtoField.bool("tickstorm.crc.valid", "CRC32C is valid"),
  rest = ProtoField.bytes("tickstorm.rest", "Bytes that are no frame"),
  unknown_payload = ProtoField.bytes("tickstorm.payload", "Payload of an unknown type"),
  unknown_field = ProtoField.uint32("tickstorm.unknown.field", "Unknown field", base.DEC),
  unknown_bytes = ProtoField.bytes("tickstorm.unknown.bytes", "Value"),
  tick = ProtoField.none("tickstorm.tick", "Tick"),
  tick_time = ProtoField.absolute_time("tickstorm.tick.time", "Time of the tick", base.UTC),
  time = ProtoField.absolute_time("tickstorm.time", "Authority time", base.UTC),
}

-- The fields of each message by their numbers, in the order in which they are registered below.
-- A kind is "text", "bytes", "bool", "u32", "i64", "packed" (numbers) or "tick".
local MESSAGES = {}
local all_fields = {}
for _, field in pairs(frame) do
  table.insert(all_fields, field)
end

local function ms(kind)
  return { kind = kind, unit = " ms" }
end

local function us(kind)
  return { kind = kind, unit = " µs" }
end

local function named(values)
  return { kind = "u32", values = values }
end

-- Registers the field `name` of a message, and describes how to show it.
local function define(message, number, name, label, how)
  if type(how) == "string" then
    how = { kind = how }
  end
  local abbreviation = "tickstorm." .. message:lower() .. "." .. name
  local make = {
    text = function() return ProtoField.string(abbreviation, label, base.UNICODE) end,
    bytes = function() return ProtoField.bytes(abbreviation, label) end,
    bool = function() return ProtoField.bool(abbreviation, label) end,
    packed = function() return ProtoField.uint32(abbreviation, label, base.DEC) end,
    u32 = function()
      if how.unit then
        return ProtoField.uint32(abbreviation, label, base.UNIT_STRING, { how.unit })
      end
      return ProtoField.uint32(abbreviation, label, base.DEC, how.values)
    end,
    i64 = function()
      if how.unit then
        return ProtoField.int64(abbreviation, label, base.UNIT_STRING, { how.unit })
      end
      return ProtoField.int64(abbreviation, label, base.DEC)
    end,
    tick = function() return frame.tick end,
  }
  how.field = make[how.kind]()
  how.name = name
  if how.kind ~= "tick" then
    table.insert(all_fields, how.field)
  end
  MESSAGES[message] = MESSAGES[message] or {}
  MESSAGES[message][number] = how
end

define("AUTH", 1, "username", "User name", "text")
define("AUTH", 2, "password", "Password", "text")
define("AUTH", 3, "client_id", "Client id", "text")
define("AUTH", 4, "client_version", "Client version", "text")
define("AUTH", 5, "token", "Token", "text")
define("AUTH", 6, "cookie", "Device cookie", "bytes")
define("SUBSCRIBE", 1, "mode", "Mode", named(MODES))
define("SUBSCRIBE", 5, "resume_after_epoch_ms", "Resume after", ms("i64"))
define("SUBSCRIBE", 6, "ahead", "Ahead", "bool")
define("HEARTBEAT", 1, "client_time_us", "Client's time", us("i64"))
define("PONG", 1, "client_time_us", "Client's time", us("i64"))
define("PONG", 2, "received_unix_us", "Received", us("i64"))
define("PONG", 3, "sent_unix_us", "Sent", us("i64"))
define("PONG", 4, "error_bound_us", "Error bound", us("u32"))
define("PONG", 5, "clock_error_us", "Clock's own error", us("u32"))
define("DATA_BATCH", 1, "schema_version", "Schema version", "u32")
define("DATA_BATCH", 2, "ticks", "Tick", "tick")
define("DATA_BATCH", 3, "sent_unix_us", "Sent", us("i64"))
define("TICK", 1, "mode", "Mode", named(MODES))
define("TICK", 2, "epoch_ms", "Epoch", ms("i64"))
define("TICK", 3, "quality", "Quality", named(QUALITIES))
define("ACK", 1, "acked_type", "Acknowledged type", named(ACKED))
define("ACK", 2, "heartbeat_interval_ms", "Heartbeat interval", ms("u32"))
define("ACK", 3, "heartbeat_timeout_ms", "Heartbeat timeout", ms("u32"))
define("ACK", 4, "edge_id", "Edge", "text")
define("ACK", 5, "start_epoch_ms", "Start", ms("i64"))
define("ACK", 6, "protocol_minor", "Protocol minor", "u32")
define("ACK", 7, "connection_id", "Connection", "text")
define("ACK", 8, "frame_rate_limit", "Frame rate limit", { kind = "u32", unit = " per second" })
define("ACK", 9, "cookie", "Device cookie", "bytes")
define("ERROR", 1, "code", "Code", "text")
define("ERROR", 2, "message", "Message", "text")
define("ERROR", 3, "retry_after_ms", "Retry after", ms("u32"))
define("ERROR", 4, "supported_versions", "Supported version", "packed")
define("ERROR", 5, "connection_id", "Connection", "text")
define("GOING_AWAY", 1, "deadline_ms", "Deadline", ms("u32"))
define("GOING_AWAY", 2, "reason", "Reason", "text")
tickstorm.fields = all_fields

local experts, all_experts = {}, {}
for name, how in pairs({
  magic = { "A frame starts with 0xF5 0x7D", "MALFORMED", "ERROR" },
  version = { "Only version 1 is known", "MALFORMED", "ERROR" },
  length = { "A payload has at most 65,536 bytes", "MALFORMED", "ERROR" },
  checksum = { "Bad checksum", "CHECKSUM", "ERROR" },
  payload = { "The payload does not decode", "MALFORMED", "ERROR" },
  cut = { "The frame is not complete in this capture", "REASSEMBLE", "WARN" },
  unknown_type = { "Unknown type, which a receiver skips", "UNDECODED", "NOTE" },
  refused_type = { "Unknown type below 0x80", "PROTOCOL", "WARN" },
  unknown_field = { "Unknown field", "UNDECODED", "NOTE" },
  refusal = { "The edge closes the connection", "RESPONSE_CODE", "WARN" },
  going_away = { "The edge asks the client to move", "RESPONSE_CODE", "NOTE" },
}) do
  local text, group, severity = how[1], expert.group[how[2]], expert.severity[how[3]]
  experts[name] = ProtoExpert.new("tickstorm.expert." .. name, text, group, severity)
  table.insert(all_experts, experts[name])
end
tickstorm.experts = all_experts

tickstorm.prefs.ports = Pref.range("TCP ports", DEFAULT_PORT,
  "Connections at these ports are TickStorm if they start with its magic", 65535)
tickstorm.prefs.desegment = Pref.bool("Reassemble frames over segments", true,
  "Also needs the preference of TCP to allow it")

-- Bit operations, which Lua has had under three names.
local bits = bit or bit32
if not bits then
  bits = {
    bxor = load("return function(a, b) return a ~ b end")(),
    band = load("return function(a, b) return a & b end")(),
    rshift = load("return function(a, n) return a >> n end")(),
  }
end

local CRC_TABLE = {}
for index = 0, 255 do
  local crc = index
  for _ = 1, 8 do
    local shifted = bits.rshift(crc, 1)
    crc = bits.band(crc, 1) == 1 and bits.bxor(shifted, 0x82F63B78) or shifted
  end
  CRC_TABLE[index] = crc % 2 ^ 32
end

local function crc32c(text)
  local crc = 0xFFFFFFFF
  for at = 1, #text do
    local low = bits.band(bits.bxor(crc, text:byte(at)), 0xFF)
    crc = bits.bxor(bits.rshift(crc, 8), CRC_TABLE[low]) % 2 ^ 32
  end
  return bits.bxor(crc, 0xFFFFFFFF) % 2 ^ 32
end

-- Reads a varint, and returns the offset after it and its value as two halves, or nil if it is cut
-- off or too long.
local function read_varint(tvb, at, stop)
  local low, high, scale = 0, 0, 1
  for index = 0, 9 do
    if at + index >= stop then
      return nil
    end
    local byte = tvb(at + index, 1):uint()
    local part = byte % 128
    if index < 4 then
      low = low + part * scale
    elseif index == 4 then
      low = low + part % 16 * 2 ^ 28
      high = math.floor(part / 16)
    else
      high = high + part * 2 ^ (7 * index - 32)
    end
    scale = scale * 128
    if byte < 128 then
      return at + index + 1, low, high % 2 ^ 32
    end
  end
  return nil
end

-- Returns the offset after a field's value, and the offset of its content, or nil if it is cut off.
local function skip_value(tvb, wire_type, at, stop)
  local from, length = at, nil
  if wire_type == 0 then
    return (read_varint(tvb, at, stop)), at
  elseif wire_type == 1 then
    length = 8
  elseif wire_type == 5 then
    length = 4
  elseif wire_type == 2 then
    local high
    from, length, high = read_varint(tvb, at, stop)
    if not from or high > 0 then
      return nil
    end
  else
    return nil
  end
  if from + length > stop then
    return nil
  end
  return from + length, from
end

-- Returns whether a text is UTF-8, which protobuf demands of a string.
local function is_utf8(text)
  local at = 1
  while at <= #text do
    local first, second = text:byte(at), text:byte(at + 1) or 0
    local more, least, most = 0, 0x80, 0xBF
    if first >= 0xF0 and first <= 0xF4 then
      more = 3
      least, most = first == 0xF0 and 0x90 or 0x80, first == 0xF4 and 0x8F or 0xBF
    elseif first >= 0xE0 and first <= 0xEF then
      more = 2
      least, most = first == 0xE0 and 0xA0 or 0x80, first == 0xED and 0x9F or 0xBF
    elseif first >= 0xC2 and first <= 0xDF then
      more = 1
    elseif first >= 0x80 then
      return false
    end
    if more > 0 and (second < least or second > most) then
      return false
    end
    for further = at + 2, at + more do
      local byte = text:byte(further) or 0
      if byte < 0x80 or byte > 0xBF then
        return false
      end
    end
    at = at + 1 + more
  end
  return true
end

local decode_message

-- Adds a field of the type that the message has for it. Returns its value for the summary.
local function add_known(how, tvb, tree, range, wire_type, from, stop)
  local content = tvb(from, stop - from)
  if how.kind == "text" then
    local text = content:len() > 0 and content:raw() or ""
    if not is_utf8(text) then
      return nil
    end
    tree:add(how.field, range, text)
    return text
  elseif how.kind == "bytes" then
    tree:add(how.field, content)
    return content:len() .. " bytes"
  elseif how.kind == "tick" then
    local item = tree:add(frame.tick, range)
    local values = decode_message("TICK", tvb, item, from, stop)
    item:append_text(": " .. (values and values.text or "does not decode"))
    return values
  elseif how.kind == "packed" and wire_type == 2 then
    while from and from < stop do
      local start, low = from, nil
      from, low = read_varint(tvb, from, stop)
      if from then
        tree:add(how.field, tvb(start, from - start), low)
      end
    end
    return from and "" or nil
  end
  local _, low, high = read_varint(tvb, from, stop)
  if how.kind == "i64" then
    local value = Int64.new(low, high)
    tree:add(how.field, range, value)
    return value
  elseif how.kind == "bool" then
    tree:add(how.field, range, low ~= 0 or high ~= 0)
    return low ~= 0 or high ~= 0
  end
  tree:add(how.field, range, low)
  return how.values and (how.values[low] or tostring(low)) or low
end

-- Adds the time that a field in ms or µs stands for.
local function add_time(field, tree, range, value, per_second)
  local seconds = (value / per_second):tonumber()
  local rest = (value % per_second):tonumber()
  tree:add(field, range, NSTime.new(seconds, rest * (1e9 / per_second))):set_generated()
end

local function add_unknown(tvb, tree, number, wire_type, range, from, stop)
  local item = tree:add(frame.unknown_field, range, number)
  item:append_text(" (" .. WIRE_TYPES[wire_type] .. ")")
  if stop > from then
    item:add(frame.unknown_bytes, tvb(from, stop - from))
  end
  item:add_proto_expert_info(experts.unknown_field)
end

local IS_VARINT = { bool = true, u32 = true, i64 = true, packed = true }

-- Adds the fields of a message. Returns their values by name, or nil if it does not decode.
decode_message = function(message, tvb, tree, at, stop)
  local values = { ticks = {} }
  while at < stop do
    local start, low, high = at, nil, nil
    at, low, high = read_varint(tvb, at, stop)
    if not at then
      return nil
    end
    local wire_type, number = low % 8, math.floor(low / 8)
    local after, from = skip_value(tvb, wire_type, at, stop)
    if number == 0 or high > 0 or not after then
      return nil
    end
    local range, how = tvb(start, after - start), MESSAGES[message][number]
    local fits = how and (wire_type == 2 and (not IS_VARINT[how.kind] or how.kind == "packed")
      or wire_type == 0 and IS_VARINT[how.kind])
    if fits then
      local value = add_known(how, tvb, tree, range, wire_type, from, after)
      if value == nil then
        return nil
      elseif how.kind == "tick" then
        table.insert(values.ticks, value)
      else
        values[how.name] = value
        if how.name == "epoch_ms" then
          add_time(frame.tick_time, tree, range, value, 1000)
        elseif how.name:find("_unix_us") and value ~= Int64(0) then
          add_time(frame.time, tree, range, value, 1000000)
        end
      end
    else
      add_unknown(tvb, tree, number, wire_type, range, from, after)
    end
    at = after
  end
  if message == "TICK" then
    values.text = string.format("%s %s %s", values.mode or "SECOND",
      tostring(values.epoch_ms or 0), values.quality or "NORMAL")
  end
  return values
end

local SUMMARIES = {
  AUTH = function(values)
    if values.token then
      return " with a token"
    end
    return " " .. (values.username or "")
  end,
  SUBSCRIBE = function(values)
    local text = " " .. (values.mode or "SECOND")
    if values.ahead then
      text = text .. " ahead"
    end
    if values.resume_after_epoch_ms then
      text = text .. " after " .. tostring(values.resume_after_epoch_ms)
    end
    return text
  end,
  DATA_BATCH = function(values)
    local first, last = values.ticks[1], values.ticks[#values.ticks]
    if not first then
      return " without ticks"
    elseif first == last then
      return " " .. first.text
    end
    return string.format(" %d ticks to %s", #values.ticks, last.text)
  end,
  ERROR = function(values) return " " .. (values.code or "") end,
  ACK = function(values) return " of " .. (values.acked_type or "0") end,
  PONG = function(values) return values.received_unix_us and "" or " without time" end,
  GOING_AWAY = function(values) return " in " .. (values.deadline_ms or 0) .. " ms" end,
}

local function add_payload(name, tvb, tree, root)
  local range = tvb(HEADER_LEN, tvb:len() - OVERHEAD)
  if not name then
    if range:len() > 0 then
      tree:add(frame.unknown_payload, range)
    end
    return ""
  end
  local values = decode_message(name, tvb, tree, HEADER_LEN, tvb:len() - 4)
  if not values then
    root:add_proto_expert_info(experts.payload)
    return " (malformed)"
  end
  if name == "ERROR" then
    root:add_proto_expert_info(experts.refusal, values.code or "")
  elseif name == "GOING_AWAY" then
    root:add_proto_expert_info(experts.going_away)
  end
  return SUMMARIES[name] and SUMMARIES[name](values) or ""
end

-- Adds a complete frame to the tree, and returns a summary of it.
local function add_frame(tvb, tree)
  local root = tree:add(tickstorm, tvb())
  local type_byte = tvb(3, 1):uint()
  local name = TYPES[type_byte]
  root:add(frame.magic, tvb(0, 2))
  root:add(frame.version, tvb(2, 1))
  root:add(frame.type, tvb(3, 1))
  root:add(frame.len, tvb(4, 4))
  if not name then
    root:add_proto_expert_info(type_byte < 0x80 and experts.refused_type or experts.unknown_type)
  end
  local text = (name or string.format("type 0x%02X", type_byte))
  text = text .. add_payload(name, tvb, root, root)
  local body = tvb:len() - 4
  local computed = crc32c(tvb:raw(0, body))
  local crc = root:add(frame.crc, tvb(body, 4))
  local is_valid = tvb(body, 4):uint() == computed
  crc:add(frame.crc_is_valid, tvb(body, 4), is_valid):set_generated()
  if not is_valid then
    crc:append_text(string.format(" (it should be 0x%08x)", computed))
    crc:add_proto_expert_info(experts.checksum)
    text = text .. " (bad checksum)"
  end
  root:append_text(", " .. text)
  return text
end

-- Returns the fault of the frame that starts at `at`, as far as its bytes show one.
local function fault_at(tvb, at)
  local length = tvb:len() - at
  if tvb(at, 1):uint() ~= 0xF5 or length > 1 and tvb(at + 1, 1):uint() ~= 0x7D then
    return experts.magic
  elseif length > 2 and tvb(at + 2, 1):uint() ~= 1 then
    return experts.version
  elseif length >= HEADER_LEN and tvb(at + 4, 4):uint() > PAYLOAD_MAX then
    return experts.length
  end
  return nil
end

-- The connections that have been recognised, by their number.
local known = {}
local stream_of = Field.new("tcp.stream")

function tickstorm.init()
  known = {}
end

local function add_rest(tvb, tree, fault, what)
  local root = tree:add(tickstorm, tvb)
  root:add(frame.rest, tvb)
  root:add_proto_expert_info(fault)
  root:append_text(", " .. what)
end

function tickstorm.dissector(tvb, pinfo, tree)
  local stream = stream_of()
  local number = stream and stream.value
  if not known[number] then
    if tvb:len() < 3 or fault_at(tvb, 0) then
      return 0
    end
    known[number] = true
  end
  pinfo.cols.protocol = "TickStorm"
  local at, texts = 0, {}
  while at < tvb:len() do
    local left, fault = tvb:len() - at, fault_at(tvb, at)
    if fault then
      table.insert(texts, "no frame")
      add_rest(tvb(at), tree, fault, "no frame")
      at = tvb:len()
    else
      local length = left >= HEADER_LEN and tvb(at + 4, 4):uint() + OVERHEAD or nil
      if length and length <= left then
        table.insert(texts, add_frame(tvb(at, length):tvb(), tree))
        at = at + length
      elseif pinfo.can_desegment > 0 and tickstorm.prefs.desegment then
        pinfo.desegment_offset = at
        pinfo.desegment_len = length and length - left or DESEGMENT_ONE_MORE_SEGMENT
        break
      else
        table.insert(texts, "a part of a frame")
        add_rest(tvb(at), tree, experts.cut, "a part of a frame")
        at = tvb:len()
      end
    end
  end
  if #texts > 0 then
    pinfo.cols.info = table.concat(texts, ", ")
  end
  return tvb:len()
end

local function is_tickstorm(tvb, pinfo, tree)
  if tvb:len() < 4 or fault_at(tvb, 0) then
    return false
  end
  local type_byte = tvb(3, 1):uint()
  if not TYPES[type_byte] and type_byte < 0x80 then
    return false
  end
  pinfo.conversation = tickstorm
  tickstorm.dissector(tvb, pinfo, tree)
  return true
end

tickstorm:register_heuristic("tcp", is_tickstorm)
-- Data that Wireshark has decrypted, for which it needs the keys.
pcall(function() tickstorm:register_heuristic("tls", is_tickstorm) end)

local registered = nil

function tickstorm.prefs_changed()
  local ports = DissectorTable.get("tcp.port")
  if registered ~= tickstorm.prefs.ports then
    if registered then
      ports:remove(registered, tickstorm)
    end
    registered = tickstorm.prefs.ports
    ports:add(registered, tickstorm)
  end
end

DissectorTable.get("tcp.port"):add(DEFAULT_PORT, tickstorm)
registered = DEFAULT_PORT
