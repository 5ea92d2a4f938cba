-- The state of an interpreter as bytes, and back.
--
-- Everything reachable from the globals is written down: tables with their identity and metatables,
-- scalars, and functions as (source text, which function in it, values of its upvalues), upvalues that
-- several functions share being shared again. Machine code of the interpreter is never part of it: on
-- the way back functions are compiled from their text. A suspended coroutine, and a function that no
-- text makes (an iterator of the library), cannot be written down; then there is no snapshot.
local S = ...
local G = S.G
local type, error, rawget, rawset, rawnext, pcall = type, error, rawget, rawset, S.raw_next, S.raw_pcall
local dump, raw_load = S.raw_dump, S.raw_load
local getmetatable, raw_setmetatable = debug.getmetatable, S.raw_setmetatable
local getupvalue, setupvalue, upvalueid, upvaluejoin = debug.getupvalue, debug.setupvalue, debug.upvalueid, debug.upvaluejoin
local byte, sub, char, unpack, pack, format = S.raw_byte, S.raw_sub, S.raw_char, S.raw_sunpack, S.raw_spack, S.raw_format
local math_type, keys_of = math.type, S.keys
local MAX_ITEMS = 20000000
local HEADER = 4 + 1 + 1 + 6 + 5 + 8 + 8

-- Functions in a compiled text ----------------------------------------------------------------------

local function skip_text(d, at)
  local size = byte(d, at)
  at = at + 1
  if size == 0 then return at end
  if size == 255 then size, at = unpack("<I8", d, at) end
  return at + size - 1
end

local function walk(d, at, head, source, found)
  local begin = skip_text(d, at)
  local n
  n, at = unpack("<i4", d, begin + 11)
  n, at = unpack("<i4", d, at + 4 * n)
  for _ = 1, n do
    local kind = byte(d, at)
    at = at + 1
    if kind == 1 then
      at = at + 1
    elseif kind == 3 or kind == 19 then
      at = at + 8
    elseif kind ~= 0 then
      at = skip_text(d, at)
    end
  end
  local upvalues
  upvalues, at = unpack("<i4", d, at)
  at = at + 2 * upvalues
  n, at = unpack("<i4", d, at)
  for _ = 1, n do at = walk(d, at, head, source, found) end
  n, at = unpack("<i4", d, at)
  n, at = unpack("<i4", d, at + 4 * n)
  for _ = 1, n do at = skip_text(d, at) + 8 end
  n, at = unpack("<i4", d, at)
  for _ = 1, n do at = skip_text(d, at) end
  found[#found + 1] = head .. char(upvalues) .. source .. sub(d, begin, at - 1)
  return at
end

-- Returns the functions of a text, each as what string.dump gives for it.
local function protos(chunk)
  if chunk.protos == nil then
    local f = S.compile(chunk.text, chunk.name)
    if f == nil then error("a text does not compile", 0) end
    local d = dump(f)
    local at = HEADER + 2
    local found = {}
    walk(d, at, sub(d, 1, HEADER), sub(d, at, skip_text(d, at) - 1), found)
    chunk.protos = found
    chunk.index = {}
    for i = #found, 1, -1 do chunk.index[found[i]] = i end
  end
  return chunk.protos, chunk.index
end

-- What the library brings along, by name -------------------------------------------------------------

local named, names, pristine = {}, {}, {}

local function name_all(v, name)
  if v == nil or names[v] ~= nil then return end
  local kind = type(v)
  if kind ~= "table" and kind ~= "function" then return end
  names[v], named[name] = name, v
  if kind == "function" then return end
  local copy, keys, n = {}, keys_of(v)
  for i = 1, n do copy[keys[i]] = v[keys[i]] end
  pristine[v] = copy
  for i = 1, n do name_all(v[keys[i]], name .. "." .. S.tostring(keys[i])) end
end

-- Called when the environment is ready, before any module runs.
function S.seal()
  name_all(G, "_G")
  name_all(getmetatable(""), "<string>")
end

-- Says whether a value came with the environment.
function S.library(v) return names[v] ~= nil end

local function untouched(t)
  local copy = pristine[t]
  for k, v in rawnext, t do
    if copy[k] ~= v then return false end
  end
  for k in rawnext, copy do
    if rawget(t, k) == nil then return false end
  end
  return getmetatable(t) == nil
end

-- Writing ------------------------------------------------------------------------------------------------

-- A value is a number of an object, or text: its first letter says what the rest is.
local function scalar(v)
  local kind = type(v)
  if kind == "string" then return "s" .. v end
  if kind == "boolean" then return v and "t" or "f" end
  if kind == "nil" then return "n" end
  if math_type(v) == "integer" then return "i" .. pack("<i8", v) end
  return "d" .. pack("<d", v)
end

local function writer()
  local w = { objects = {}, at = {}, queue = {}, cells = {}, cell_at = {}, chunks = {}, chunk_at = {} }

  function w.value(v)
    local kind = type(v)
    if kind == "table" or kind == "function" then
      local number = w.at[v]
      if number == nil then
        number = #w.queue + 1
        w.queue[number], w.at[v] = v, number
      end
      return number
    elseif kind == "thread" then
      error("a coroutine cannot be written down", 0)
    elseif kind == "userdata" then
      error("a value of the host cannot be written down", 0)
    end
    return scalar(v)
  end

  function w.table(t, into)
    local mt = getmetatable(t)
    into[#into + 1] = mt == nil and "n" or w.value(mt)
    local ok, keys, n = pcall(keys_of, t)
    if not ok then error(keys, 0) end
    local m = #into
    for i = 1, n do
      into[m + 2 * i - 1], into[m + 2 * i] = w.value(keys[i]), w.value(rawget(t, keys[i]))
    end
    return into
  end

  function w.chunk(code)
    for i = 1, #S.chunks do
      local _, index = protos(S.chunks[i])
      local proto = index[code]
      if proto ~= nil then
        local number = w.chunk_at[i]
        if number == nil then
          number = #w.chunks + 1
          w.chunks[number], w.chunk_at[i] = S.chunks[i], number
        end
        return number, proto
      end
    end
    error("a function that no text made cannot be written down", 0)
  end

  function w.func(f)
    local ok, code = pcall(dump, f)
    if not ok then error("a function of the library cannot be written down", 0) end
    local chunk, proto = w.chunk(code)
    local made, i = { "F", chunk, proto }, 1
    while true do
      local name, v = getupvalue(f, i)
      if name == nil then return made end
      local id = upvalueid(f, i)
      local cell = w.cell_at[id]
      if cell == nil then
        cell = #w.cells + 1
        w.cell_at[id] = cell
        w.cells[cell] = false
        w.cells[cell] = w.value(v)
      end
      made[3 + i] = cell
      i = i + 1
    end
  end

  function w.object(v)
    local name = names[v]
    if name ~= nil then
      if type(v) == "function" then return { "B", name } end
      if not untouched(v) then return w.table(v, { "B", name }) end
      local keys, n = keys_of(v)
      for i = 1, n do -- what is inside may have changed
        local inner = rawget(v, keys[i])
        if type(inner) == "table" then w.value(inner) end
      end
      return { "B", name }
    end
    if type(v) == "function" then return w.func(v) end
    return w.table(v, { "T" })
  end
  return w
end

local function written()
  local w = writer()
  w.value(G)
  w.value(getmetatable(""))
  local i = 0
  while i < #w.queue do
    i = i + 1
    w.objects[i] = w.object(w.queue[i])
  end
  local seed, ids, last = S.kept()
  local numbers = {}
  for n = 1, #w.queue do
    local id = ids[w.queue[n]]
    if id ~= nil then
      numbers[#numbers + 1] = n
      numbers[#numbers + 1] = id
    end
  end
  local texts = {}
  for n = 1, #w.chunks do texts[n] = { w.chunks[n].name, w.chunks[n].text } end
  S.forget(w.chunks)
  return S.encode({ 1, w.objects, w.cells, texts, numbers, seed, last }, 7, MAX_ITEMS)
end

-- Returns true and the bytes, or false and why there are none.
function S.snapshot()
  S.silent()
  return pcall(written)
end

-- Reading --------------------------------------------------------------------------------------------------

local function refuse() error("the snapshot is malformed", 0) end

local function plain(v)
  local kind, rest = sub(v, 1, 1), sub(v, 2)
  if kind == "s" then return rest end
  if kind == "t" then return true end
  if kind == "f" then return false end
  if kind == "n" then return nil end
  if kind == "i" and #rest == 8 then return (unpack("<i8", rest)) end
  if kind == "d" and #rest == 8 then return (unpack("<d", rest)) end
  refuse()
end

local function reader(objects)
  local made = {}
  local function value(v)
    if type(v) == "string" then return plain(v) end
    local found = made[v]
    if found == nil then refuse() end
    return found
  end
  return made, value
end

local function make(entry, chunks)
  local kind = entry[1]
  if kind == "T" then return {} end
  if kind == "B" then return named[entry[2]] end
  if kind ~= "F" or chunks[entry[2]] == nil then refuse() end
  local code = protos(chunks[entry[2]])[entry[3]]
  if code == nil then refuse() end
  return raw_load(code, "=?", "b")
end

local function fill(t, entry, first, value)
  for k in rawnext, t do rawset(t, k, nil) end
  for i = first, #entry, 2 do
    local k = value(entry[i])
    if k == nil or k ~= k then refuse() end
    rawset(t, k, value(entry[i + 1]))
  end
end

local function metatable(t, v, value)
  local mt = value(v)
  if mt == nil then
    if getmetatable(t) ~= nil then raw_setmetatable(t, nil) end
    return
  end
  if type(mt) ~= "table" or rawget(mt, "__gc") ~= nil then refuse() end
  raw_setmetatable(t, mt)
  S.remember(mt)
end

local function connect(made, objects, cells, value)
  local owner = {}
  for n = 1, #objects do
    local entry = objects[n]
    if entry[1] == "F" then
      for i = 4, #entry do
        local cell, up = entry[i], i - 3
        if cells[cell] == nil then refuse() end
        if owner[cell] == nil then
          owner[cell] = { made[n], up }
          if setupvalue(made[n], up, value(cells[cell])) == nil then refuse() end
        else
          if getupvalue(made[n], up) == nil then refuse() end
          upvaluejoin(made[n], up, owner[cell][1], owner[cell][2])
        end
      end
      if getupvalue(made[n], #entry - 2) ~= nil then refuse() end
    end
  end
end

local function read(packed)
  local form = S.decode(packed)
  local objects, cells, texts, numbers, seed, last = form[2], form[3], form[4], form[5], form[6], form[7]
  if form[1] ~= 1 then error("the snapshot is of another version", 0) end
  local chunks = {}
  for i = 1, #texts do chunks[i] = { name = texts[i][1], text = texts[i][2] } end
  S.forget(chunks)
  local made, value = reader(objects)
  for n = 1, #objects do
    made[n] = make(objects[n], chunks)
    if made[n] == nil then refuse() end
  end
  -- Metatables first, while they are empty: no finalizer is ever marked.
  for n = 1, #objects do
    local entry = objects[n]
    local slot = entry[1] == "T" and entry[2] or entry[1] == "B" and entry[3] or nil
    if slot ~= nil then
      if type(made[n]) ~= "table" then refuse() end
      metatable(made[n], slot, value)
    end
  end
  for n = 1, #objects do
    local entry = objects[n]
    if entry[1] == "T" then fill(made[n], entry, 3, value) end
    if entry[1] == "B" and entry[3] ~= nil then fill(made[n], entry, 4, value) end
  end
  connect(made, objects, cells, value)
  for i = 1, #numbers, 2 do
    local object = made[numbers[i]]
    if object == nil then refuse() end
    S.ids[object] = numbers[i + 1]
  end
  S.keep(seed, last)
end

-- Makes this fresh interpreter one that was written down; returns true, or false and why not.
function S.restore(packed)
  S.silent()
  return pcall(read, packed)
end
