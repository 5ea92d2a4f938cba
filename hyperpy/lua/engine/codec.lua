-- Messages and tables: msgpack both ways. An empty table is an empty message; 1..n is a list.
local S = ...
local byte, sub, char, unpack, pack, format = string.byte, string.sub, string.char, string.unpack, string.pack, string.format
local rawget, type, error, math_type, concat, pcall = rawget, type, error, math.type, table.concat, S.raw_pcall
local ordered, rawnext = next, S.raw_next
local tostring, sort = tostring, table.sort
local MAX_DEPTH, MAX_ITEMS, CHUNK, KEPT = 96, 1000000, 4096, 65536
local ITEM, KEYED = 20, 100 -- instructions that an item of a list and one with a key cost, for those who read it too

local decode

local function list(s, at, n)
  local t = {}
  for i = 1, n do t[i], at = decode(s, at) end
  return t, at
end

-- Short texts are read in place: nearly all keys are.
local function map(s, at, n)
  local t = {}
  for _ = 1, n do
    local k, v
    local b, size = byte(s, at, at + 1)
    if b == 0xc4 then
      k = sub(s, at + 2, at + 1 + size)
      at = at + 2 + size
    else
      k, at = decode(s, at)
    end
    b, size = byte(s, at, at + 1)
    if b == 0xc4 then
      t[k] = sub(s, at + 2, at + 1 + size)
      at = at + 2 + size
    else
      v, at = decode(s, at)
      t[k] = v
    end
  end
  return t, at
end

local READ = {
  [0xc2] = function(_, at) return false, at end,
  [0xc3] = function(_, at) return true, at end,
  [0xc4] = function(s, at) return unpack("s1", s, at) end,
  [0xc5] = function(s, at) return unpack(">s2", s, at) end,
  [0xc6] = function(s, at) return unpack(">s4", s, at) end,
  [0xcb] = function(s, at) return unpack(">d", s, at) end,
  [0xcc] = function(s, at) return byte(s, at), at + 1 end,
  [0xcd] = function(s, at) return unpack(">I2", s, at) end,
  [0xce] = function(s, at) return unpack(">I4", s, at) end,
  [0xcf] = function(s, at) return unpack(">i8", s, at) end,
  [0xd0] = function(s, at) return unpack(">i1", s, at) end,
  [0xd1] = function(s, at) return unpack(">i2", s, at) end,
  [0xd2] = function(s, at) return unpack(">i4", s, at) end,
  [0xd3] = function(s, at) return unpack(">i8", s, at) end,
  [0xd9] = function(s, at) return unpack("s1", s, at) end,
  [0xda] = function(s, at) return unpack(">s2", s, at) end,
  [0xdb] = function(s, at) return unpack(">s4", s, at) end,
  [0xdc] = function(s, at) local n, p = unpack(">I2", s, at) return list(s, p, n) end,
  [0xdd] = function(s, at) local n, p = unpack(">I4", s, at) return list(s, p, n) end,
  [0xde] = function(s, at) local n, p = unpack(">I2", s, at) return map(s, p, n) end,
  [0xdf] = function(s, at) local n, p = unpack(">I4", s, at) return map(s, p, n) end,
}

decode = function(s, at)
  local b = byte(s, at)
  at = at + 1
  if b < 0x80 then return b, at end
  if b < 0x90 then return map(s, at, b & 15) end
  if b < 0xa0 then return list(s, at, b & 15) end
  if b < 0xc0 then
    local n = b & 31
    return sub(s, at, at + n - 1), at + n
  end
  if b >= 0xe0 then return b - 256, at end
  return READ[b](s, at)
end

function S.decode(s) return (decode(s, 1)) end

local SHORT = {}
for n = 0, 255 do SHORT[n] = char(0xc4, n) end

local out, n, items, price = {}, 0, 0, 0
local clean = true -- whether out and parts hold nothing large
local parts, m = {}, 0 -- what is packed already, in chunks: few short texts at a time

local function flush()
  m = m + 1
  parts[m] = concat(out, "", 1, n)
  n = 0
end

local function put_text(v)
  local size = #v
  n = n + 2
  if size < 256 then
    out[n - 1] = SHORT[size]
  elseif size < 65536 then
    out[n - 1] = pack(">BI2", 0xc5, size)
  else
    out[n - 1] = pack(">BI4", 0xc6, size)
  end
  out[n] = v
end

local function put_number(v)
  n = n + 1
  if math_type(v) == "integer" then
    if v >= 0 and v < 128 then
      out[n] = char(v)
    else
      out[n] = pack(">Bi8", 0xd3, v)
    end
  else
    if v ~= v or v == 1 / 0 or v == -1 / 0 then error("a message holds no infinities and no NaN", 0) end
    out[n] = pack(">Bd", 0xcb, v)
  end
end

local encode
local following = rawnext -- in whatever order, unless there is an error to be told
local names = {}

local function where(depth, last)
  local text = ""
  for i = 2, depth do text = text .. tostring(names[i]) .. "/" end
  if last ~= nil then return text .. tostring(last) end
  return text == "" and "the value" or sub(text, 1, -2)
end

-- Numbers in order, then texts: two numbers may have one text, and the last one counts.
local function before(a, b)
  if type(a) ~= type(b) then return type(a) == "number" end
  return a < b
end

-- Returns the number of keys, the number of entries 1..n, and the other keys: numbers in order, texts behind.
local function shape(t, depth)
  local size = 0
  while rawget(t, size + 1) ~= nil do size = size + 1 end
  local rest, m, count, numbers = nil, 0, 0, 0
  for k in following, t do
    local kind = type(k)
    count = count + 1
    if kind ~= "string" and kind ~= "number" then
      error("a key of " .. where(depth) .. " is a " .. kind .. ", not text", 0)
    elseif kind == "string" or math_type(k) == "float" or k < 1 or k > size then
      rest = rest or {}
      m = m + 1
      rest[m] = k
      if kind == "number" then numbers = numbers + 1 end
    end
  end
  if numbers > 1 then sort(rest, before) end
  return count, size, rest, m
end

local function put_pair(k, v, depth)
  put_text(type(k) == "string" and k or tostring(k))
  names[depth + 1] = k
  encode(v, depth + 1)
  if n > CHUNK then flush() end
end

local most, room = MAX_ITEMS, math.huge
local COSTLY = "a value costs too much"
S.COSTLY = COSTLY

local function add_items(count, each)
  items, price = items + count, price + count * each
  if price > room then error(COSTLY, 0) end
  if items > most then error("a value holds too many items", 0) end
end

-- A table that has keys other than text.
local function put_mixed(t, depth)
  local count, size, rest, m = shape(t, depth)
  add_items(count, rest == nil and ITEM or KEYED)
  n = n + 1
  if rest == nil then
    out[n] = size < 16 and char(0x90 + size) or pack(">BI4", 0xdd, size)
    for i = 1, size do
      names[depth + 1] = i
      encode(rawget(t, i), depth + 1)
      if n > CHUNK then flush() end
    end
    return
  end
  out[n] = count < 16 and char(0x80 + count) or pack(">BI4", 0xdf, count)
  for i = 1, size do put_pair(i, rawget(t, i), depth) end
  -- Numbers first: where 1 and "1" are both keys, the text is what counts.
  for i = 1, m do
    if type(rest[i]) ~= "string" then put_pair(rest[i], rawget(t, rest[i]), depth) end
  end
  for i = 1, m do
    if type(rest[i]) == "string" then put_pair(rest[i], rawget(t, rest[i]), depth) end
  end
end

local function put_table(t, depth)
  if depth > MAX_DEPTH then error("a table is nested too deeply, or holds itself: " .. where(depth), 0) end
  local count = 0
  for k in following, t do
    if type(k) ~= "string" then return put_mixed(t, depth) end
    count = count + 1
  end
  add_items(count, KEYED)
  n = n + 1
  out[n] = count < 16 and char(0x80 + count) or pack(">BI4", 0xdf, count)
  for k, v in following, t do
    if n > CHUNK then flush() end
    local size = #k
    if size < 256 then
      out[n + 1], out[n + 2] = SHORT[size], k
      n = n + 2
    else
      put_text(k)
    end
    if type(v) == "string" then
      put_text(v)
    else
      names[depth + 1] = k
      encode(v, depth + 1)
    end
  end
end

encode = function(v, depth)
  local kind = type(v)
  if kind == "string" then
    put_text(v)
  elseif kind == "number" then
    put_number(v)
  elseif kind == "boolean" then
    n = n + 1
    out[n] = v and "\xc3" or "\xc2"
  elseif kind == "table" then
    put_table(v, depth)
  else
    error("a message holds no " .. kind .. ": " .. where(depth - 1, names[depth]), 0)
  end
end

local function encoded(values, count)
  if not clean then parts, out = {}, {} end
  n, m, items, price, clean = 1, 0, 0, 0, false
  out[1] = pack(">BI4", 0xdd, count)
  for i = 1, count do
    local v = values[i]
    if v == nil then
      n = n + 1
      out[n] = "\xc0"
    else
      names[1] = nil
      encode(v, 1)
    end
  end
  local made
  if m == 0 then
    made = concat(out, "", 1, n)
  else
    flush()
    made = concat(parts, "", 1, m)
  end
  if #made > KEPT then parts, out = {}, {} end
  clean = true
  return made
end

-- Adds what the items of a table cost to `price`, whatever else is wrong with them; stops where it is too much.
local function weigh(t, depth)
  if type(t) ~= "table" or depth > MAX_DEPTH then return end
  local count, last, list = 0, 0, true
  for k in rawnext, t do
    count = count + 1
    if math_type(k) ~= "integer" or k < 1 then
      list = false
    elseif k > last then
      last = k
    end
  end
  price = price + count * ((list and last == count) and ITEM or KEYED)
  for _, v in rawnext, t do
    if price > room then return end
    weigh(v, depth + 1)
  end
end

-- What the items of the last value that was packed cost.
function S.price() return price end

-- Returns the values 1..count of a table as one msgpack list; raises text for what no message can hold, and COSTLY
-- where its items cost more than `limit`.
function S.encode(values, count, largest, limit)
  most, room = largest or MAX_ITEMS, limit or math.huge
  local mark = S.mark()
  local ok, made = pcall(encoded, values, count)
  if ok then return made end
  if made == S.FULL then error(made, 0) end
  -- Which of several errors comes first is to be the same everywhere, and so is what it costs.
  S.back_to(mark)
  price = 0
  for i = 1, count do weigh(values[i], 1) end
  if price > room then error(COSTLY, 0) end
  following = ordered
  ok, made = pcall(encoded, values, count)
  following = rawnext
  if ok then return made end
  error(S.clean(made), 0)
end
