-- Messages and tables: msgpack both ways. An empty table is an empty message; 1..n is a list.
local S = ...
local byte, sub, char, unpack, pack, format = string.byte, string.sub, string.char, string.unpack, string.pack, string.format
local rawget, rawnext, type, error, math_type, concat = rawget, next, type, error, math.type, table.concat
local tostring, sort = tostring, table.sort
local MAX_DEPTH, MAX_ITEMS = 96, 1000000

local decode

local function list(s, at, n)
  local t = {}
  for i = 1, n do t[i], at = decode(s, at) end
  return t, at
end

local function map(s, at, n)
  local t = {}
  for _ = 1, n do
    local k, v
    k, at = decode(s, at)
    v, at = decode(s, at)
    t[k] = v
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

local out, n, items

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

local function where(path)
  local names = {}
  while path do
    names[#names + 1] = path[2]
    path = path[1]
  end
  local text = ""
  for i = #names, 1, -1 do text = text .. "/" .. names[i] end
  return text == "" and "the value" or sub(text, 2)
end

-- Returns the number of keys, the number of entries 1..n, and the other keys as text.
local function shape(t, path)
  local size = 0
  while rawget(t, size + 1) ~= nil do size = size + 1 end
  local rest, m, count = nil, 0, 0
  for k in rawnext, t do
    local kind = type(k)
    count = count + 1
    if kind == "string" then
      rest = rest or {}
      m = m + 1
      rest[m] = k
    elseif kind ~= "number" then
      error("a key of " .. where(path) .. " is a " .. kind .. ", not text", 0)
    elseif math_type(k) == "float" or k < 1 or k > size then
      rest = rest or {}
      m = m + 1
      rest[m] = k
    end
  end
  return count, size, rest, m
end

local function put_table(t, depth, path)
  if depth > MAX_DEPTH then error("a table is nested too deeply, or holds itself: " .. where(path), 0) end
  local count, size, rest, m = shape(t, path)
  items = items + count
  if items > MAX_ITEMS then error("a value holds too many items", 0) end
  n = n + 1
  if rest == nil and size > 0 then
    out[n] = size < 16 and char(0x90 + size) or pack(">BI4", 0xdd, size)
    for i = 1, size do encode(rawget(t, i), depth + 1, path, i) end
    return
  end
  out[n] = count < 16 and char(0x80 + count) or pack(">BI4", 0xdf, count)
  for i = 1, size do
    put_text(tostring(i))
    encode(rawget(t, i), depth + 1, path, i)
  end
  -- Numbers first: where 1 and "1" are both keys, the text is what counts.
  for i = 1, m do
    local k = rest[i]
    if type(k) ~= "string" then
      put_text(tostring(k))
      encode(rawget(t, k), depth + 1, path, k)
    end
  end
  for i = 1, m do
    local k = rest[i]
    if type(k) == "string" then
      put_text(k)
      encode(rawget(t, k), depth + 1, path, k)
    end
  end
end

encode = function(v, depth, path, name)
  local kind = type(v)
  if kind == "string" then
    put_text(v)
  elseif kind == "number" then
    put_number(v)
  elseif kind == "boolean" then
    n = n + 1
    out[n] = v and "\xc3" or "\xc2"
  elseif kind == "table" then
    put_table(v, depth, name ~= nil and { path, name } or path)
  else
    error("a message holds no " .. kind .. ": " .. where({ path, tostring(name or "result") }), 0)
  end
end

-- Returns the values 1..count of a table as one msgpack list; raises text for what no message can hold.
function S.encode(values, count)
  out, n, items = {}, 1, 0
  out[1] = pack(">BI4", 0xdd, count)
  for i = 1, count do
    local v = values[i]
    if v == nil then
      n = n + 1
      out[n] = "\xc0"
    else
      encode(v, 1, nil, nil)
    end
  end
  local made = concat(out, "", 1, n)
  out = nil
  return made
end
