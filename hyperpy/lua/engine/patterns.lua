-- Lua patterns with every step counted: written in Lua, so that the instruction hook sees them.
--
-- The matcher of the C library needs time that grows with a power of the text's length. It is used where
-- a bound on its steps is small (see strings.lua), and this one everywhere else, with equal results.
local S = ...
local byte, sub, find = string.byte, string.sub, string.find
local error, type, tostring = error, type, tostring
local MAX_CAPTURES, MAX_DEPTH = 32, 200
local UNFINISHED, POSITION = -1, -2

local P = {}
S.patterns = P

local CLASS = {}
do
  local char, lower, upper = string.char, string.lower, string.upper
  for name in ("acdglpsuwxz"):gmatch(".") do
    local set, inverse = {}, {}
    for c = 0, 255 do
      local is = find(char(c), "^%" .. name) ~= nil
      set[c], inverse[c] = is, not is
    end
    CLASS[byte(name)], CLASS[byte(upper(name))] = set, inverse
  end
end

local function in_class(c, class)
  local set = CLASS[class]
  if set then return set[c] end
  return class == c
end

-- The end of the single-character item that begins at p (1-based), as in the reference's classEnd.
local function class_end(pat, p, last)
  local c = byte(pat, p)
  p = p + 1
  if c == 37 then -- %
    if p > last then error("malformed pattern (ends with '%')", 0) end
    return p + 1
  end
  if c == 91 then -- [
    if byte(pat, p) == 94 then p = p + 1 end
    repeat
      if p > last then error("malformed pattern (missing ']')", 0) end
      local inner = byte(pat, p)
      p = p + 1
      if inner == 37 and p <= last then p = p + 1 end
    until p <= last and byte(pat, p) == 93
    return p + 1
  end
  return p
end

-- Whether c is in the set that begins at p and whose ']' stands at stop.
local function in_set(c, pat, p, stop)
  local inside = true
  if byte(pat, p + 1) == 94 then
    inside = false
    p = p + 1
  end
  p = p + 1
  while p < stop do
    local x = byte(pat, p)
    if x == 37 then
      p = p + 1
      if in_class(c, byte(pat, p)) then return inside end
    elseif byte(pat, p + 1) == 45 and p + 2 < stop then
      if x <= c and c <= byte(pat, p + 2) then return inside end
      p = p + 2
    elseif x == c then
      return inside
    end
    p = p + 1
  end
  return not inside
end

local function single(m, s, p, ep)
  local c = byte(m.text, s)
  if c == nil then return false end
  local x = byte(m.pat, p)
  if x == 46 then return true end
  if x == 37 then return in_class(c, byte(m.pat, p + 1)) end
  if x == 91 then return in_set(c, m.pat, p, ep - 1) end
  return x == c
end

local match

local function balance(m, s, p)
  if p + 1 > m.last then error("malformed pattern (missing arguments to '%b')", 0) end
  local text, open, close = m.text, byte(m.pat, p, p + 1)
  if byte(text, s) ~= open then return nil end
  local depth = 1
  for i = s + 1, m.size do
    local c = byte(text, i)
    if c == close then
      depth = depth - 1
      if depth == 0 then return i + 1 end
    elseif c == open then
      depth = depth + 1
    end
  end
  return nil
end

local function longest(m, s, p, ep)
  local i = 0
  while single(m, s + i, p, ep) do i = i + 1 end
  while i >= 0 do
    local e = match(m, s + i, ep + 1)
    if e then return e end
    i = i - 1
  end
  return nil
end

local function shortest(m, s, p, ep)
  while true do
    local e = match(m, s, ep + 1)
    if e then return e end
    if not single(m, s, p, ep) then return nil end
    s = s + 1
  end
end

local function open_capture(m, s, p, what)
  local level = m.level
  if level >= MAX_CAPTURES then error("too many captures", 0) end
  level = level + 1
  m.start[level], m.length[level], m.level = s, what, level
  local e = match(m, s, p)
  if e == nil then m.level = m.level - 1 end
  return e
end

local function close_capture(m, s, p)
  local l
  for level = m.level, 1, -1 do
    if m.length[level] == UNFINISHED then
      l = level
      break
    end
  end
  if l == nil then error("invalid pattern capture", 0) end
  m.length[l] = s - m.start[l]
  local e = match(m, s, p)
  if e == nil then m.length[l] = UNFINISHED end
  return e
end

local function back_reference(m, s, digit)
  local l = digit - 48
  if l < 1 or l > m.level or m.length[l] == UNFINISHED then
    error("invalid capture index %" .. tostring(l), 0)
  end
  local size = m.length[l]
  if size >= 0 and m.size + 1 - s >= size then
    S.charge(size // 16)
    if sub(m.text, m.start[l], m.start[l] + size - 1) == sub(m.text, s, s + size - 1) then return s + size end
  end
  return nil
end

local function is_in(m, c, p, stop) return in_set(c or 0, m.pat, p, stop) end

-- Returns where the match ends (the position behind it), or nil.
local function run(m, s, p)
  local pat, last = m.pat, m.last
  while p <= last do
    local c = byte(pat, p)
    if c == 40 then
      if byte(pat, p + 1) == 41 then return open_capture(m, s, p + 2, POSITION) end
      return open_capture(m, s, p + 1, UNFINISHED)
    elseif c == 41 then
      return close_capture(m, s, p + 1)
    elseif c == 36 and p == last then
      return s == m.size + 1 and s or nil
    end
    local d = c == 37 and byte(pat, p + 1) or nil
    if d == 98 then -- %b
      s = balance(m, s, p + 2)
      if s == nil then return nil end
      p = p + 4
    elseif d == 102 then -- %f
      p = p + 2
      if byte(pat, p) ~= 91 then error("missing '[' after '%f' in pattern", 0) end
      local ep = class_end(pat, p, last)
      if is_in(m, s > 1 and byte(m.text, s - 1) or 0, p, ep - 1) or not is_in(m, byte(m.text, s), p, ep - 1) then
        return nil
      end
      p = ep
    elseif d and d >= 48 and d <= 57 then
      s = back_reference(m, s, d)
      if s == nil then return nil end
      p = p + 2
    else
      local ep = class_end(pat, p, last)
      local q = byte(pat, ep)
      if q == 63 then -- ?
        if single(m, s, p, ep) then
          local e = match(m, s + 1, ep + 1)
          if e then return e end
        end
        p = ep + 1
      elseif q == 43 then -- +
        if not single(m, s, p, ep) then return nil end
        return longest(m, s + 1, p, ep)
      elseif q == 42 then -- *
        return longest(m, s, p, ep)
      elseif q == 45 then -- -
        return shortest(m, s, p, ep)
      else
        if not single(m, s, p, ep) then return nil end
        s, p = s + 1, ep
      end
    end
  end
  return s
end

match = function(m, s, p)
  if m.depth == 0 then error("pattern too complex", 0) end
  m.depth = m.depth - 1
  local e = run(m, s, p)
  m.depth = m.depth + 1
  return e
end

-- One capture as a value; with no captures the first one is the whole match.
local function capture(m, l, s, e)
  if l > m.level then
    if l ~= 1 then error("invalid capture index %" .. tostring(l), 0) end
    return sub(m.text, s, e - 1)
  end
  local size = m.length[l]
  if size == UNFINISHED then error("unfinished capture", 0) end
  if size == POSITION then return m.start[l] end
  return sub(m.text, m.start[l], m.start[l] + size - 1)
end
P.capture = capture

local function captures(m, l, count, s, e)
  if l > count then return end
  return capture(m, l, s, e), captures(m, l + 1, count, s, e)
end

-- All captures; `whole` says that the whole match stands for none.
function P.captures(m, s, e, whole)
  return captures(m, 1, (m.level == 0 and whole) and 1 or m.level, s, e)
end

function P.new(text, pat)
  local anchored = byte(pat, 1) == 94
  return {
    text = text, size = #text, pat = pat, last = #pat, first = anchored and 2 or 1, anchored = anchored,
    level = 0, depth = MAX_DEPTH, start = {}, length = {},
  }
end

-- Matches at s only; returns the position behind the match, or nil.
function P.at(m, s, first)
  m.level, m.depth = 0, MAX_DEPTH
  return match(m, s, first or m.first)
end

-- The first match at or after init: its beginning and the position behind it.
function P.search(text, pat, init)
  local m = P.new(text, pat)
  local s = init
  repeat
    local e = P.at(m, s)
    if e then return m, s, e end
    s = s + 1
  until s > m.size + 1 or m.anchored
  return nil
end
