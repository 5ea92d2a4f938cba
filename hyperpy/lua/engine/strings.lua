-- The string, table and utf8 libraries, with the work of their C functions accounted for.
local S = ...
local G, charge, P, rawnext = S.G, S.charge, S.patterns, S.raw_next
local raw, t_raw, u_raw = {}, {}, {}
for k, v in rawnext, string do raw[k] = v end
for k, v in rawnext, table do t_raw[k] = v end
for k, v in rawnext, utf8 do u_raw[k] = v end
local type, error, select, tonumber, tointeger, math_type = type, error, select, tonumber, math.tointeger, math.type
local byte, sub, find, unpack, concat = raw.byte, raw.sub, raw.find, t_raw.unpack, t_raw.concat
local tostring, raw_tostring, OBJECTS = S.tostring, tostring, S.OBJECTS
local HALF, MOST_VALUES = 1 << 31, 1000000
S.cheap = 65536 -- steps that the C matcher may take

local function size_of(v)
  local kind = type(v)
  if kind == "string" then return #v end
  return kind == "number" and 32 or 0
end

-- The text of an argument, or the error that the C library gives.
local function text(v, i, name)
  local kind = type(v)
  if kind == "string" then return v end
  if kind == "number" then return raw_tostring(v) end
  error("bad argument #" .. i .. " to '" .. name .. "' (string expected, got " .. (v == nil and "no value" or kind) .. ")", 3)
end

-- What reading the number in a text costs.
local function digits(v)
  if type(v) == "string" and #v > 7 then charge(#v // 8) end
end

local function integer(v, default, i, name)
  if v == nil then return default end
  digits(v)
  local n = tonumber(v)
  n = n and tointeger(n)
  if n == nil then
    local got = type(v) == "number" and "number has no integer representation" or "number expected, got " .. type(v)
    error("bad argument #" .. i .. " to '" .. name .. "' (" .. got .. ")", 3)
  end
  return n
end

S.integer, S.digits = integer, digits

local function sizes(...)
  local sum, list = 0, { ... }
  for i = 1, select("#", ...) do sum = sum + size_of(list[i]) end
  return sum
end

-- What reading the numbers in texts costs.
local function all_digits(...)
  local list = { ... }
  for i = 1, select("#", ...) do digits(list[i]) end
end

-- Costs that follow from the size of the arguments -------------------------------------------------

for _, name in rawnext, { "lower", "upper", "reverse" } do
  local f = raw[name]
  string[name] = function(...)
    charge(size_of((...)) // 16)
    return f(...)
  end
end

function string.sub(...)
  local _, i, j = ...
  if type(i) == "string" or type(j) == "string" then all_digits(i, j) end
  local made = sub(...)
  charge(#made // 64)
  return made
end

local function counted(...)
  charge(select("#", ...) // 4)
  return ...
end

function string.byte(...)
  local _, i, j = ...
  if type(i) == "string" or type(j) == "string" then all_digits(i, j) end
  return counted(byte(...))
end

function string.char(...)
  charge(select("#", ...) // 4)
  all_digits(...)
  return raw.char(...)
end

function string.rep(s, n, sep)
  digits(n)
  local count = tonumber(n)
  if count and count > 0 then charge((size_of(s) + size_of(sep)) * (count + 0.0) / 64) end
  return raw.rep(s, n, sep)
end

function string.pack(...)
  charge(select("#", ...) + sizes(...) // 8)
  local made = raw.pack(...)
  charge(#made // 8)
  return made
end

function string.packsize(...)
  charge(size_of((...)) // 2)
  return raw.packsize(...)
end

function string.unpack(f, s, ...)
  charge(size_of(f) + size_of(s) // 64)
  digits((...))
  return raw.unpack(f, s, ...)
end

local FLOATS = { a = 50, A = 50, e = 50, E = 50, f = 200, g = 50, G = 50 } -- `%f` may write three hundred digits

-- `%s` of a table would show its address.
function string.format(spec, ...)
  if type(spec) ~= "string" then return raw.format(spec, ...) end
  local args, n, i = { ... }, select("#", ...), 0
  charge(#spec // 4 + n)
  for what in raw.gmatch(spec, "%%[^%a%%]*([%a%%])") do
    if what ~= "%" then
      i = i + 1
      local v = args[i]
      if what == "s" and OBJECTS[type(v)] then
        args[i] = tostring(v)
        v = args[i]
      end
      local size = size_of(v)
      charge((what == "q" and 8 * size or size // (what == "s" and 32 or 8)) + (FLOATS[what] or 0))
      if what == "s" and math_type(v) == "float" then charge(S.FLOAT) end
    end
  end
  return raw.format(spec, unpack(args, 1, n))
end

string.dump = nil

-- Patterns ------------------------------------------------------------------------------------------

-- A bound on the steps that the C matcher takes for a text of n characters; infinite if it is large.
local function bound(pat, n)
  local steps, p, last = #pat + 1, 1, #pat
  if byte(pat, 1) == 94 then p = 2 else steps = steps * (n + 1) end
  while p <= last do
    local c = byte(pat, p)
    if c == 37 then
      local d = byte(pat, p + 1)
      if d == 98 or d and d >= 48 and d <= 57 then steps = steps * (n + 1) end
      p = p + 2
    else
      if c == 42 or c == 43 or c == 45 then
        steps = steps * (n + 1)
      elseif c == 63 then
        steps = steps * 2
      end
      p = p + 1
    end
    if steps > S.cheap then return nil end
  end
  return steps
end

-- Whether the C function may be used; if so, its work is charged.
local function cheap(s, pat)
  charge(#pat)
  local steps = bound(pat, #s)
  if steps == nil then return false end
  charge(steps // 8)
  return true
end

local function start(init, size, name)
  local i = integer(init, 1, 3, name)
  if i < 0 then i = size + i + 1 end
  if i < 1 then i = 1 end
  return i
end

local function no_specials(pat) return find(pat, "[%^%$%*%+%?%.%(%[%%%-]") == nil end

function string.find(s, pat, init, plain)
  s, pat = text(s, 1, "find"), text(pat, 2, "find")
  local i = start(init, #s, "find")
  if plain or no_specials(pat) then
    charge(#s * #pat // 32)
    if #pat > 1 and i <= #s then charge((#s - i + 1) // 2) end -- each place where the first byte stands is looked at
    return find(s, pat, i, true)
  end
  if i > #s + 1 then return nil end
  if cheap(s, pat) then return find(s, pat, i) end
  local m, b, e = P.search(s, pat, i)
  if m == nil then return nil end
  return b, e - 1, P.captures(m, b, e, false)
end

function string.match(s, pat, init)
  s, pat = text(s, 1, "match"), text(pat, 2, "match")
  local i = start(init, #s, "match")
  if i > #s + 1 then return nil end
  if cheap(s, pat) then return raw.match(s, pat, i) end
  local m, b, e = P.search(s, pat, i)
  if m == nil then return nil end
  return P.captures(m, b, e, true)
end

function string.gmatch(s, pat)
  s, pat = text(s, 1, "gmatch"), text(pat, 2, "gmatch")
  -- In gmatch a '^' is no anchor.
  if cheap(s, "." .. pat) then
    local f = raw.gmatch(s, pat)
    return function() return f() end
  end
  local m = P.new(s, pat)
  local at, last = 1, nil
  return function()
    while at <= m.size + 1 do
      local b, e = at, P.at(m, at, 1)
      if e and e ~= last then
        at, last = e, e
        return P.captures(m, b, e, true)
      end
      at = at + 1
    end
    return nil
  end
end

local function expand(m, repl, b, e)
  local parts, n, i = {}, 0, 1
  local whole = sub(m.text, b, e - 1)
  while i <= #repl do
    local j = find(repl, "%", i, true)
    n = n + 1
    if j == nil then
      parts[n] = sub(repl, i)
      break
    end
    parts[n] = sub(repl, i, j - 1)
    local c = byte(repl, j + 1)
    n = n + 1
    if c == 37 then
      parts[n] = "%"
    elseif c == 48 then
      parts[n] = whole
    elseif c and c >= 49 and c <= 57 then
      parts[n] = raw_tostring(P.capture(m, c - 48, b, e))
    else
      error("invalid use of '%' in replacement string", 0)
    end
    i = j + 2
  end
  return concat(parts, "", 1, n)
end

local function replacement(m, repl, kind, b, e)
  local v
  if kind == "string" then
    v = expand(m, repl, b, e)
  elseif kind == "table" then
    v = repl[P.capture(m, 1, b, e)]
  else
    v = repl(P.captures(m, b, e, true))
  end
  if not v then return sub(m.text, b, e - 1) end
  local got = type(v)
  if got == "number" then return raw_tostring(v) end
  if got ~= "string" then error("invalid replacement value (a " .. got .. ")", 0) end
  charge(#v // 32)
  return v
end

function string.gsub(s, pat, repl, max)
  s, pat = text(s, 1, "gsub"), text(pat, 2, "gsub")
  local kind = type(repl)
  if kind == "number" then repl, kind = raw_tostring(repl), "string" end
  if kind ~= "string" and kind ~= "table" and kind ~= "function" then
    error("bad argument #3 to 'gsub' (string/function/table expected)", 2)
  end
  local most = integer(max, #s + 1, 4, "gsub")
  if cheap(s, pat) then
    if kind == "string" then charge((#s + 1) * #repl // 256) end
    local made, count = raw.gsub(s, pat, repl, most)
    charge(#made // 32 + count * (kind == "string" and 8 + #repl or 16))
    return made, count
  end
  local m = P.new(s, pat)
  local at, last, count, parts, n = 1, nil, 0, {}, 0
  while count < most do
    local e = P.at(m, at)
    if e and e ~= last then
      count = count + 1
      n = n + 1
      parts[n] = replacement(m, repl, kind, at, e)
      at, last = e, e
    elseif at <= m.size then
      n = n + 1
      parts[n] = sub(s, at, at)
      at = at + 1
    else
      break
    end
    if m.anchored then break end
  end
  parts[n + 1] = sub(s, at)
  return concat(parts, "", 1, n + 1), count
end

-- Tables ----------------------------------------------------------------------------------------------

function table.concat(list, sep, i, j)
  local first = integer(i, 1, 3, "concat")
  local last = j == nil and type(list) == "table" and #list or integer(j, 0, 4, "concat")
  if last >= first then charge((last - first + 0.0) * (20 + size_of(sep) / 64)) end -- floats among them
  local made = concat(list, sep, first, last)
  charge(#made // 32)
  return made
end

function table.unpack(list, i, j)
  local first = integer(i, 1, 2, "unpack")
  local last = j == nil and #list or integer(j, 0, 3, "unpack")
  local count = last - first + 0.0
  if count >= 0 and count < MOST_VALUES then charge(count / 4) end -- beyond it the C function refuses
  return unpack(list, first, last)
end

function table.insert(list, ...)
  local count = select("#", ...)
  if count == 2 and type(list) == "table" then
    digits((...))
    local at = tonumber((...))
    local after = at and #list - at or 0
    if after > 0 then charge(after) end
  end
  t_raw.insert(list, ...)
end

function table.remove(list, ...)
  if select("#", ...) > 0 and type(list) == "table" then
    digits((...))
    local at = tonumber((...))
    local after = at and #list - at or 0
    if after > 0 then charge(after) end
  end
  return (t_raw.remove(list, ...))
end

function table.move(a, f, e, t, b)
  all_digits(f, e, t)
  local first, last = tonumber(f), tonumber(e)
  if first and last and last > first then charge(last - first + 0.0) end
  if b == nil then return t_raw.move(a, f, e, t) end
  return t_raw.move(a, f, e, t, b)
end

function table.pack(...)
  charge(select("#", ...) // 4)
  return t_raw.pack(...)
end

local function less(a, b) return a < b end

-- What comparing the costliest two of these texts costs, beyond an instruction.
local function compared(list, n)
  local first, second = 0, 0
  for i = 1, n do
    local v = list[i]
    local size = type(v) == "string" and S.order_cost(v) or 0
    if size > first then
      first, second = size, first
    elseif size > second then
      second = size
    end
  end
  return second
end

-- A merge sort: the C library's picks pivots at random.
function table.sort(list, lt)
  if type(list) ~= "table" then
    error("bad argument #1 to 'sort' (table expected, got " .. (list == nil and "no value" or type(list)) .. ")", 2)
  end
  if lt ~= nil and type(lt) ~= "function" then
    error("bad argument #2 to 'sort' (function expected, got " .. type(lt) .. ")", 2)
  end
  local n = #list
  if n >= HALF then error("bad argument #1 to 'sort' (array too big)", 2) end
  local from, to = {}, {}
  for i = 1, n do from[i] = list[i] end
  local cost = lt == nil and compared(from, n) or 0
  lt = lt or less
  local width = 1
  while width < n do
    if cost > 0 then charge(1.0 * n * cost) end
    for low = 1, n, 2 * width do
      local mid, high = low + width, low + 2 * width
      if mid > n + 1 then mid = n + 1 end
      if high > n + 1 then high = n + 1 end
      local i, j = low, mid
      for k = low, high - 1 do
        if i < mid and (j >= high or not lt(from[j], from[i])) then
          to[k] = from[i]
          i = i + 1
        else
          to[k] = from[j]
          j = j + 1
        end
      end
    end
    from, to = to, from
    width = 2 * width
  end
  if n > 1 then
    for i = 1, n do list[i] = from[i] end
  end
end

-- utf8 ------------------------------------------------------------------------------------------------

for _, name in rawnext, { "len", "codepoint", "offset" } do
  local f = u_raw[name]
  utf8[name] = function(...)
    charge(size_of((...)) // 4)
    all_digits(select(2, ...))
    return f(...)
  end
end

function utf8.char(...)
  charge(select("#", ...))
  all_digits(...)
  return u_raw.char(...)
end

-- Other functions whose work follows from their arguments -----------------------------------------------

local raw_tonumber, raw_select = tonumber, select
function G.tonumber(...)
  charge(size_of((...)) // 8)
  all_digits(raw_select(2, ...))
  return raw_tonumber(...)
end

function G.select(n, ...)
  digits(n)
  charge(raw_select("#", ...) // 16)
  return raw_select(n, ...)
end
