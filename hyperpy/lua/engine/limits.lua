-- Limits: instructions are counted by a hook on every coroutine, allocation by the collector's own figure.
--
-- What was exceeded is remembered in `over`. From then on every instruction of every coroutine raises
-- again, and the host answers with the limit whatever the code returned: no pcall gets around it.
-- The collector runs only from the hook and between calls, with weak tables held and no finalizers, so
-- that it cannot be observed.
local S = ...
S.raw_select, S.raw_next, S.raw_pcall, S.raw_xpcall, S.raw_setmetatable, S.raw_load = select, next, pcall, xpcall, setmetatable, load
S.raw_find, S.raw_gmatch, S.raw_concat, S.raw_unpack = string.find, string.gmatch, table.concat, table.unpack
S.raw_sort, S.raw_dump, S.raw_char, S.raw_format = table.sort, string.dump, string.char, string.format
S.raw_spack, S.raw_sunpack, S.raw_sub, S.raw_byte = string.pack, string.unpack, string.sub, string.byte
local sethook, gethook, getinfo, collect = debug.sethook, debug.gethook, debug.getinfo, collectgarbage
local error, type, rawget, rawset, rawnext, find, sub = error, type, rawget, rawset, next, string.find, string.sub
local raw_pcall, raw_xpcall, raw_setmetatable = pcall, xpcall, setmetatable
local create, resume, status, yield = coroutine.create, coroutine.resume, coroutine.status, coroutine.yield
local running, isyieldable = coroutine.running, coroutine.isyieldable

local TICK = 500                    -- instructions between two looks
local TEXT = {
  instructions = "instruction limit exceeded",
  memory = "memory limit exceeded",
  stack = "stack limit exceeded",
  aborted = "the call was given up",
}
local ENDLESS = math.huge
local left, over = ENDLESS, false
local first, base, ceiling, total = 0, 0, 0, 0 -- KiB: at the beginning, at the last collection, next, and in all
local GROWN, ROOM, ALL = 65536, 49152, 524288 -- KiB that may stay, be garbage, and be allocated in all
local SMALL = 65536 -- KiB that a smaller state counts as: garbage of earlier calls may be in it
local canary = raw_setmetatable({}, { __mode = "k" })
local hook

local function stop(why)
  over = over or why
  sethook(hook, "", 1)
  error(TEXT[over], 0)
end

-- Functions of the host: they end a call, and are not stopped.
local trusted = {}
function S.trust(f)
  trusted[f] = true
  return f
end

hook = function()
  left = left - TICK
  if over then
    if trusted[getinfo(2, "f").func] then return end
    stop(over)
  end
  if left < 0 then stop("instructions") end
  if rawnext(canary) == nil then stop("memory") end
  if collect("count") > ceiling then
    total = total + collect("count") - base
    base = S.collect()
    ceiling = base + ROOM
    canary[{}] = true
    if total > ALL or base - first > GROWN then stop("memory") end
  end
end

-- Accounts for work that a C function does in one go.
local function charge(amount)
  left = left - amount
  if over then stop(over) end
  if not (left >= 0) then stop("instructions") end
end

-- Notes what is in use before a call, its arguments not yet unpacked. Garbage of earlier calls must not
-- decide, for an interpreter taken up anew has none: the host has collected where there is more than SMALL.
function S.settle()
  local count = collect("count")
  first = count > SMALL and count or SMALL
end

-- Starts a call.
function S.begin(instructions)
  collect("stop")
  left, over = instructions, false
  base = collect("count")
  ceiling, total = base + ROOM, 0
  canary[{}] = true
  sethook(hook, "", TICK)
end

-- Counts nothing until the next call begins: what the host itself does.
function S.silent() left, over = ENDLESS, false end

-- Ends a call; returns what was exceeded (or false) and the instructions used.
S.finish = S.trust(function(instructions)
  sethook()
  if not over and rawnext(canary) == nil then over = "memory" end
  local used = instructions - (left > 0 and left or 0)
  return over, used // 1 | 0
end)

S.stop, S.charge, S.TEXT = stop, charge, TEXT
S.FLOAT = 40 -- what writing a float as text costs
S.FULL = "not enough memory" -- Lua's own words
function S.over() return over end
-- Where counting stands, and back to it: for what is done a second time.
function S.mark() return left end
function S.back_to(mark)
  if over then stop(over) end
  left = mark
  if left ~= ENDLESS and gethook() then sethook(hook, "", TICK) end
end
function S.left() return left > 0 and left // 1 | 0 or 0 end

-- Errors that no pcall may swallow: where the stack or the memory is full the hook itself cannot run, so
-- code that went on there would not be counted.
local FATAL = {
  { "not enough memory", "memory" },
  { "stack overflow", "stack" },
  { "error in error handling", "stack" },
}

local function fatal(e)
  if type(e) ~= "string" then return nil end
  for i = 1, #FATAL do
    if find(e, FATAL[i][1], 1, true) then return FATAL[i][2] end
  end
  return nil
end
S.fatal = fatal

-- An error of the library has no position: its text has no lines.
local function clean(e)
  if type(e) == "string" and sub(e, 1, 6) == "?:-1: " then return sub(e, 7) end
  return e
end
S.clean = clean

local function passed(ok, ...)
  if over then stop(over) end
  if not ok then
    local why = fatal((...))
    if why then stop(why) end
    return ok, clean((...))
  end
  return ok, ...
end

function S.G.pcall(...) return passed(raw_pcall(...)) end

function S.G.xpcall(f, handler, ...)
  if type(handler) ~= "function" then
    error("bad argument #2 to 'xpcall' (function expected, got " .. type(handler) .. ")", 2)
  end
  -- The error of a hook is handled with hooks switched off: no user code may run then.
  return passed(raw_xpcall(f, function(e)
    if over then return e end
    local why = fatal(e)
    if why then
      over = why
      return e
    end
    return handler(clean(e))
  end, ...))
end

-- Metatables: finalizers never run, and weak tables are not weak (see S.collect).
local metatables = raw_setmetatable({}, { __mode = "k" })

function S.G.setmetatable(t, mt)
  if type(t) ~= "table" then
    error("bad argument #1 to 'setmetatable' (table expected, got " .. type(t) .. ")", 2)
  end
  if type(mt) ~= "table" then
    if mt ~= nil then error("bad argument #2 to 'setmetatable' (nil or table expected)", 2) end
    local ok, why = raw_pcall(raw_setmetatable, t, nil)
    if not ok then error(why, 2) end
    return t
  end
  local gc = rawget(mt, "__gc")
  if gc ~= nil then rawset(mt, "__gc", nil) end
  local ok, why = raw_pcall(raw_setmetatable, t, mt)
  if gc ~= nil then rawset(mt, "__gc", gc) end
  if not ok then error(why, 2) end
  metatables[mt] = true
  return t
end

function S.remember(mt) metatables[mt] = true end

-- Collects garbage between calls; weak tables keep everything.
function S.collect()
  local modes = {}
  for mt in rawnext, metatables do
    local mode = rawget(mt, "__mode")
    if mode ~= nil then
      modes[mt] = mode
      rawset(mt, "__mode", nil)
    end
  end
  collect("collect")
  for mt, mode in rawnext, modes do rawset(mt, "__mode", mode) end
  return collect("count")
end

-- Coroutines: each has a hook of its own; one that ends before its first tick has paid for it.
local co = {}

function co.create(f)
  charge(TICK)
  local made = create(f)
  sethook(made, hook, "", TICK)
  return made
end

function co.resume(...)
  if over then stop(over) end
  return passed(resume(...))
end

local function results(ok, ...)
  if not ok then error((...), 0) end
  return ...
end

function co.wrap(f)
  local made = co.create(f)
  return function(...) return results(co.resume(made, ...)) end
end

co.status, co.yield, co.running, co.isyieldable = status, yield, running, isyieldable

for name in rawnext, coroutine do rawset(coroutine, name, nil) end
for name, f in rawnext, co do rawset(coroutine, name, f) end
