-- What a C Lua leaves to chance, made the same everywhere: the order of `pairs` and `next`, names of
-- tables and functions, random numbers, the clock.
local S = ...
local G, charge = S.G, S.charge
local type, error, rawget, rawnext, select = type, error, rawget, next, select
local getmetatable, raw_tostring, math_type = debug.getmetatable, tostring, math.type
local format, sort, tonumber, tointeger = string.format, table.sort, tonumber, math.tointeger
local sub, gsub, find, pack, unpack, concat = string.sub, string.gsub, string.find, string.pack, string.unpack, table.concat

-- Keys of a table in order -------------------------------------------------------------------

-- What reading a text from end to end costs. Texts with NULs are compared piece by piece.
local function order_cost(s)
  if #s > 15 and find(s, "\0", 1, true) then return #s end
  return #s // 16
end
S.order_cost = order_cost

-- Sorting distinct keys of one type gives one result, whatever the algorithm.
local function append(keys, n, list)
  if list == nil then return n end
  local m = #list
  if m > 1 then
    local levels = 1
    while m >> levels > 0 do levels = levels + 1 end
    local sizes = m
    for i = 1, type(list[1]) == "string" and m or 0 do sizes = sizes + order_cost(list[i]) end
    charge(sizes * levels)
    sort(list)
  end
  for i = 1, m do keys[n + i] = list[i] end
  return n + m
end

local function put(list, k)
  if list == nil then return { k } end
  list[#list + 1] = k
  return list
end

-- Returns the keys and their number: 1..n, other integers, floats, strings, false, true, and then at
-- most one table or function, for those have no order.
function S.keys(t)
  local keys, n = {}, 0
  while rawget(t, n + 1) ~= nil do
    n = n + 1
    keys[n] = n
  end
  local first, ints, floats, texts, others, no, yes = n, nil, nil, nil, nil, false, false
  for k in rawnext, t do
    local kind = type(k)
    if kind == "string" then
      texts = put(texts, k)
    elseif kind == "number" then
      if math_type(k) ~= "integer" then
        floats = put(floats, k)
      elseif k < 1 or k > first then
        ints = put(ints, k)
      end
    elseif k == false then
      no = true
    elseif k == true then
      yes = true
    else
      others = put(others, k)
    end
  end
  n = append(keys, append(keys, append(keys, n, ints), floats), texts)
  if no then
    n = n + 1
    keys[n] = false
  end
  if yes then
    n = n + 1
    keys[n] = true
  end
  if others ~= nil then
    if #others > 1 then error("a table with several keys that are tables or functions has no order", 3) end
    n = n + 1
    keys[n] = others[1]
  end
  return keys, n
end
local keys_of = S.keys

local function check_table(t, name)
  if type(t) ~= "table" then
    error("bad argument #1 to '" .. name .. "' (table expected, got " .. (t == nil and "no value" or type(t)) .. ")", 3)
  end
end

function G.pairs(t)
  local mt = getmetatable(t)
  local own = mt and rawget(mt, "__pairs")
  if own ~= nil then
    local f, s, k = own(t)
    return f, s, k
  end
  check_table(t, "pairs")
  local keys, n = keys_of(t)
  local i = 0
  return function()
    while i < n do
      i = i + 1
      local k = keys[i]
      local v = rawget(t, k)
      if v ~= nil then return k, v end
    end
    return nil
  end, t, nil
end

local orders = {}

local function ordered(t)
  local keys, n = keys_of(t)
  local at = {}
  for i = 1, n do at[keys[i]] = i end
  local made = { keys = keys, at = at, n = n }
  orders[t] = made
  return made
end

-- Keys that came after the order was made stand behind it.
local function newcomers(t, order)
  local fresh = {}
  for k, v in rawnext, t do
    if order.at[k] == nil then fresh[k] = v end
  end
  local keys, n = keys_of(fresh)
  for i = 1, n do
    order.keys[order.n + i] = keys[i]
    order.at[keys[i]] = order.n + i
  end
  order.n = order.n + n
  return n
end

function G.next(t, k)
  check_table(t, "next")
  local i, order = 0, nil
  if k == nil then
    local first, v = rawnext(t)
    if first == nil then return nil end
    if rawnext(t, first) == nil then
      orders[t] = nil
      return first, v
    end
    order = ordered(t)
  else
    order = orders[t]
    if order == nil or order.at[k] == nil then order = ordered(t) end
    i = order.at[k]
    if i == nil then error("invalid key to 'next'", 2) end
  end
  repeat
    while i < order.n do
      i = i + 1
      local found = order.keys[i]
      local v = rawget(t, found)
      if v ~= nil then return found, v end
    end
  until newcomers(t, order) == 0
  return nil
end

-- Names of objects: numbered in the order in which they are asked for --------------------------

local ids, last = setmetatable({}, { __mode = "k" }), 0

local function text(v)
  local mt = getmetatable(v)
  local own = mt and rawget(mt, "__tostring")
  if own ~= nil then
    local s = own(v)
    if type(s) ~= "string" then error("'__tostring' must return a string", 3) end
    return s
  end
  local kind = mt and rawget(mt, "__name")
  if type(kind) ~= "string" then kind = type(v) end
  local id = ids[v]
  if id == nil then
    last = last + 1
    id = last
    ids[v] = id
  end
  return format("%s: 0x%08x", kind, id)
end

local OBJECTS = { table = true, ["function"] = true, thread = true, userdata = true }
S.OBJECTS = OBJECTS

function G.tostring(...)
  local v = ...
  if OBJECTS[type(v)] then return text(v) end
  if math_type(v) == "float" then S.charge(S.FLOAT) end
  return (raw_tostring(...))
end
S.tostring = G.tostring

function G.print(...)
  local n, parts = select("#", ...), { ... }
  for i = 1, n do parts[i] = S.tostring(parts[i]) end
  S.log(concat(parts, "\t", 1, n))
end

-- Random numbers: splitmix64 --------------------------------------------------------------------

local seed = 0

local function draw()
  seed = seed + 0x9E3779B97F4A7C15
  local z = seed
  z = (z ~ (z >> 30)) * 0xBF58476D1CE4E5B9
  z = (z ~ (z >> 27)) * 0x94D049BB133111EB
  return z ~ (z >> 31)
end

local function whole(v, i)
  S.digits(v)
  local n = tonumber(v)
  n = n and tointeger(n)
  if n == nil then error("bad argument #" .. i .. " to 'random' (number has no integer representation)", 3) end
  return n
end

function math.random(...)
  local count = select("#", ...)
  if count == 0 then return (draw() >> 11) * (1.0 / (1 << 53)) end
  local low, high = 1, nil
  if count == 1 then
    high = whole((...), 1)
  elseif count == 2 then
    local a, b = ...
    low, high = whole(a, 1), whole(b, 2)
  else
    error("wrong number of arguments", 2)
  end
  if low > high then error("bad argument #" .. count .. " to 'random' (interval is empty)", 2) end
  local span = high - low + 1
  if span <= 0 then
    if span == 0 then return draw() end
    local z = draw()
    while z < low or z > high do z = draw() end
    return z
  end
  return low + (draw() >> 1) % span
end

function math.randomseed(v)
  S.digits(v)
  local n = tonumber(v)
  if n == nil then error("bad argument #1 to 'randomseed' (number expected)", 2) end
  seed = tointeger(n) or (unpack("<i8", pack("<d", n)))
end

S.own_math = { [math.random] = true, [math.randomseed] = true }

-- The clock shows the time of the message that is being worked on ---------------------------------

local now = 0
local DAYS = { "Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday" }
local MONTHS = {
  "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
  "November", "December",
}

local function days(y, m, d)
  m = m - 1
  y = y + m // 12
  m = m % 12 + 1
  if m <= 2 then y = y - 1 end
  local era, shifted = y // 400, (m + 9) % 12
  local year = y - era * 400
  local day = (153 * shifted + 2) // 5 + d - 1
  return era * 146097 + year * 365 + year // 4 - year // 100 + day - 719468
end

local function broken(t)
  local day, rest = t // 86400, t % 86400
  local z = day + 719468
  local era = z // 146097
  local doe = z - era * 146097
  local yoe = (doe - doe // 1460 + doe // 36524 - doe // 146096) // 365
  local doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
  local mp = (5 * doy + 2) // 153
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return {
    year = year, month = month, day = doy - (153 * mp + 2) // 5 + 1,
    hour = rest // 3600, min = rest // 60 % 60, sec = rest % 60,
    wday = (day + 4) % 7 + 1, yday = day - days(year, 1, 1) + 1, isdst = false,
  }
end

local function field(t, name, default)
  local v = t[name]
  if v == nil then v = default end
  if v == nil then error("field '" .. name .. "' missing in date table", 3) end
  S.digits(v)
  local n = tointeger(tonumber(v) or 0.5)
  if n == nil then error("field '" .. name .. "' is not an integer", 3) end
  if n < -(1 << 31) or n >= 1 << 31 then error("field '" .. name .. "' is out-of-bound", 3) end
  return n
end

local STRFTIME
STRFTIME = {
  a = function(d) return sub(DAYS[d.wday], 1, 3) end,
  A = function(d) return DAYS[d.wday] end,
  b = function(d) return sub(MONTHS[d.month], 1, 3) end,
  B = function(d) return MONTHS[d.month] end,
  c = "%a %b %e %H:%M:%S %Y", D = "%m/%d/%y", x = "%m/%d/%y", X = "%H:%M:%S", T = "%H:%M:%S",
  F = "%Y-%m-%d", R = "%H:%M", r = "%I:%M:%S %p", h = "%b",
  d = function(d) return format("%02d", d.day) end,
  e = function(d) return format("%2d", d.day) end,
  H = function(d) return format("%02d", d.hour) end,
  I = function(d) return format("%02d", (d.hour + 11) % 12 + 1) end,
  j = function(d) return format("%03d", d.yday) end,
  m = function(d) return format("%02d", d.month) end,
  M = function(d) return format("%02d", d.min) end,
  n = function() return "\n" end,
  p = function(d) return d.hour < 12 and "AM" or "PM" end,
  S = function(d) return format("%02d", d.sec) end,
  t = function() return "\t" end,
  w = function(d) return format("%d", d.wday - 1) end,
  y = function(d) return format("%02d", d.year % 100) end,
  Y = function(d) return format("%d", d.year) end,
  z = function() return "+0000" end,
  Z = function() return "UTC" end,
  ["%"] = function() return "%" end,
}

local function strftime(spec, d)
  return (gsub(spec, "%%(.?)", function(c)
    local how = STRFTIME[c]
    if how == nil then error("bad argument #1 to 'date' (invalid conversion specifier '%" .. c .. "')", 3) end
    if type(how) == "string" then return strftime(how, d) end
    return how(d)
  end))
end

local own = {}

function own.time(t)
  if t == nil then return now end
  check_table(t, "time")
  local y, m, d = field(t, "year"), field(t, "month"), field(t, "day")
  return days(y, m, d) * 86400 + field(t, "hour", 12) * 3600 + field(t, "min", 0) * 60 + field(t, "sec", 0)
end

function own.date(spec, t)
  if spec == nil then spec = "%c" end
  if type(spec) ~= "string" then error("bad argument #1 to 'date' (string expected)", 2) end
  charge(#spec)
  S.digits(t)
  local at = t == nil and now or tointeger(tonumber(t) or 0.5)
  if at == nil then error("bad argument #2 to 'date' (number has no integer representation)", 2) end
  if at < -(1 << 40) or at > 1 << 40 then error("time out-of-bounds", 2) end
  if sub(spec, 1, 1) == "!" then spec = sub(spec, 2) end
  local d = broken(at)
  if sub(spec, 1, 2) == "*t" then return d end
  return strftime(spec, d)
end

function own.difftime(a, b)
  S.digits(a)
  S.digits(b)
  return a * 1.0 - (b or 0)
end
function own.clock() return 0.0 end

for name in rawnext, os do os[name] = nil end
for name, f in rawnext, own do os[name] = f end

-- State that outlives a call is `seed` and the names; everything else starts anew with each call.
function S.enter(seconds, fresh)
  now, orders = seconds, {}
  if fresh ~= nil then seed = fresh end
end
function S.kept() return seed, ids, last end
function S.keep(state, number) seed, last = state, number end
S.ids = ids
