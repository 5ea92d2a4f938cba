-- Instructions whose work grows with the length of a text, and how they are charged.
--
-- `<`, `<=`, `==`, arithmetic and keys of tables take texts of any length in one instruction. In front of
-- each that may meet one, guards.py puts a comparison MARK < operand into the compiled code. For a number
-- it is nothing; for anything else Lua calls the metamethod of numbers below, which charges the length.
-- Metamethods of the program are not called by it, for the number stands first.
local S = ...
local G, charge, raw_load, dump = S.G, S.charge, S.raw_load, S.raw_dump
local type, error, select, rawnext, getmetatable = type, error, select, S.raw_next, debug.getmetatable
local rawget, rawset, rawequal, math = rawget, rawset, rawequal, math
local EVERY, SOME = -0x7A3C5E19D2B48F61, -0x7A3C5E19D2B48F62 -- marks: all of the text is worked on, or it is compared

-- The metatable of numbers ---------------------------------------------------------------------------

local function name_of(v)
  local mt = getmetatable(v)
  local name = type(v) == "table" and mt and rawget(mt, "__name")
  return type(name) == "string" and name or type(v)
end

local function disordered(a, b)
  local one, other = name_of(a), name_of(b)
  if one == other then error("attempt to compare two " .. one .. " values", 3) end
  error("attempt to compare " .. one .. " with " .. other, 3)
end

local function own(v, event)
  if type(v) == "number" then return nil end
  local mt = getmetatable(v)
  return mt and rawget(mt, event)
end

local numbers = {}

function numbers.__lt(a, b)
  if a == SOME then
    if type(b) == "string" and #b > 255 then charge(#b // 256) end
    return false
  elseif a == EVERY then
    if type(b) == "string" and #b > 15 then charge(S.order_cost(b)) end
    return false
  end
  local f = own(a, "__lt")
  if f == nil then f = own(b, "__lt") end
  if f == nil then disordered(a, b) end
  return f(a, b)
end

function numbers.__le(a, b)
  local f = own(a, "__le")
  if f == nil then f = own(b, "__le") end
  if f ~= nil then return f(a, b) end
  f = own(b, "__lt")
  if f == nil then f = own(a, "__lt") end
  if f == nil then disordered(a, b) end
  return not f(b, a)
end

debug.setmetatable(0, numbers)

function G.getmetatable(...)
  local v = ...
  if type(v) == "number" then return nil end
  if select("#", ...) == 0 then error("bad argument #1 to 'getmetatable' (value expected)", 2) end
  local mt = getmetatable(v)
  if mt == nil then return nil end
  local shown = rawget(mt, "__metatable")
  if shown ~= nil then return shown end
  return mt
end

-- Functions of C that compare texts, or read numbers in them ---------------------------------------------

local function key_cost(k)
  if type(k) == "string" and #k > 255 then charge(#k // 256) end
end

local function table_first(t, name)
  if type(t) == "table" then return end
  error("bad argument #1 to '" .. name .. "' (table expected, got " .. (t == nil and "no value" or type(t)) .. ")", 3)
end

function G.rawget(t, k)
  table_first(t, "rawget")
  key_cost(k)
  return rawget(t, k)
end

function G.rawset(t, k, v)
  table_first(t, "rawset")
  if k == nil or k ~= k then error(k == nil and "table index is nil" or "table index is NaN", 2) end
  key_cost(k)
  return rawset(t, k, v)
end

function G.rawequal(...)
  if select("#", ...) < 2 then error("bad argument #" .. select("#", ...) + 1 .. " to 'rawequal' (value expected)", 2) end
  local a, b = ...
  key_cost(b)
  return rawequal(a, b)
end

-- The functions of `math` take numbers, and texts that are such; `tointeger`, `max` and `min` take anything.
local ANY = { tointeger = true, max = true, min = true }

local function no_number(name, count, v)
  error("bad argument #1 to '" .. name .. "' (number expected, got " .. (count == 0 and "no value" or type(v)) .. ")", 3)
end

for name, f in rawnext, math do
  if type(f) == "function" and not S.own_math[f] and name ~= "type" then
    local any, compared = ANY[name], name == "max" or name == "min"
    math[name] = function(...)
      local a, b = ...
      if type(a) ~= "number" or b ~= nil then
        local given, count = { ... }, select("#", ...)
        if not any and type(a) ~= "number" and type(a) ~= "string" then no_number(name, count, a) end
        for i = 1, count do
          local v = given[i]
          if type(v) == "string" then charge(compared and 2 * S.order_cost(v) or #v // 8) end
        end
      end
      return f(...)
    end
  end
end

-- Compiled code ----------------------------------------------------------------------------------------

-- Compiles a text as `load` does, with guards; also what a snapshot names is compiled so.
function S.compile(text, name, ...)
  local made, why = raw_load(text, name, "t", ...)
  if made == nil then return nil, why end
  local code, problem = S.host_guard(dump(made))
  if code == nil then return nil, problem end
  return raw_load(code, name, "b", ...)
end
