-- What is left of the global environment, the `ao` table, and the calls that the host makes.
local S = ...
local G, charge, stop = S.G, S.charge, S.stop
local type, error, select, rawget, rawset, rawnext = type, error, select, rawget, rawset, S.raw_next
local raw_load, raw_xpcall, raw_pcall, getinfo, getlocal = S.raw_load, S.raw_xpcall, S.raw_pcall, debug.getinfo, debug.getlocal
local sub, find, gmatch, concat, format = S.raw_sub, S.raw_find, S.raw_gmatch, S.raw_concat, S.raw_format
local unpack, sort = S.raw_unpack, S.raw_sort
local MAX_TRACE, MAX_LEVELS, MAX_LOGS = 32, 100, 100
local INSTRUCTIONS = 60000000 -- unless the call is inside another one, which pays for it
local ASKING = 10000 -- what a question to the node costs

-- Code --------------------------------------------------------------------------------------------

local chunks, known = {}, {}
S.chunks = chunks

function S.register(text, name)
  local same = known[name] and known[name][text]
  if same then return end
  known[name] = known[name] or {}
  known[name][text] = true
  chunks[#chunks + 1] = { text = text, name = name }
end

function S.forget(kept)
  for i = #chunks, 1, -1 do chunks[i] = nil end
  for name in rawnext, known do known[name] = nil end
  for i = 1, #kept do
    chunks[i] = kept[i]
    known[kept[i].name] = known[kept[i].name] or {}
    known[kept[i].name][kept[i].text] = true
  end
end

local function occurrences(text, word)
  local n, at = 0, 1
  while true do
    local b, e = find(text, word, at, true)
    if b == nil then return n end
    n, at = n + 1, e + 1
  end
end

-- Text only: a binary chunk could do anything.
local function compile(text, name, ...)
  charge(1000 + 10 * #text + occurrences(text, "goto") * (1.0 * occurrences(text, "::")))
  local made, why = S.compile(text, name, ...)
  if made ~= nil then S.register(text, name) end
  return made, why
end

function G.load(chunk, name, mode, ...)
  local text = chunk
  if type(chunk) == "function" then
    local parts, n = {}, 0
    while true do
      local part = chunk()
      if part == nil or part == "" then break end
      if type(part) ~= "string" then return nil, "reader function must return a string" end
      charge(20 + #part // 4)
      n = n + 1
      parts[n] = part
    end
    text = concat(parts, "", 1, n)
    if name == nil then name = "=(load)" end
  elseif type(chunk) ~= "string" then
    error("bad argument #1 to 'load' (function expected, got " .. (chunk == nil and "no value" or type(chunk)) .. ")", 2)
  end
  if name == nil then name = text end
  if type(name) ~= "string" then error("bad argument #2 to 'load' (string expected, got " .. type(name) .. ")", 2) end
  if mode ~= nil and (type(mode) ~= "string" or find(mode, "t", 1, true) == nil) then
    return nil, "attempt to load a text chunk (mode is '" .. S.tostring(mode) .. "')"
  end
  return compile(text, name, ...)
end

local loaded = {
  _G = G, string = string, table = table, math = math, os = os, coroutine = coroutine, utf8 = utf8,
}
G.package = { loaded = loaded, preload = {}, path = "", cpath = "", config = "/\n;\n?\n!\n-\n" }
local package = G.package

function G.require(name)
  local found = package.loaded[name]
  if found ~= nil then return found end
  local make = package.preload[name]
  if type(make) ~= "function" then error("module '" .. S.tostring(name) .. "' not found", 2) end
  local made = make(name)
  if made == nil then made = true end
  package.loaded[name] = made
  return made
end

-- Modules ask for a collection now and then; there is nothing to be seen of it.
function G.collectgarbage() return 0 end

for _, name in rawnext, { "debug", "dofile", "io", "loadfile", "loadstring", "python", "module" } do
  G[name] = nil
end

-- The table `ao` ------------------------------------------------------------------------------------

local logs = 0
function S.log(text)
  logs = logs + 1
  charge(#text // 16 + 100)
  if logs <= MAX_LOGS then S.host_log(sub(text, 1, 1024)) end
end

local function ask(kind, ...)
  local n = select("#", ...)
  charge(ASKING)
  local request = S.encode({ ... }, n)
  charge(#request // 16 + S.price())
  local reply, spent = S.host_ask(kind, request, S.left())
  if reply == nil then stop("aborted") end
  charge(#reply // 16 + spent)
  return unpack(S.decode(reply), 1, 2)
end

local function brief(v)
  if S.OBJECTS[type(v)] then return type(v) end
  return S.tostring(v)
end

local ao = {}
function ao.resolve(...) return ask("resolve", ...) end
function ao.get(key, base) return select(2, ask("get", key, base)) end
function ao.set(base, key, value)
  if value == nil then return select(2, ask("set", base, key)) end
  return select(2, ask("set", base, key, value))
end
function ao.event(group, event)
  local text = event == nil and group or event
  if type(text) == "table" then
    local parts, keys, n = {}, S.keys(text)
    for i = 1, n do parts[i] = brief(keys[i]) .. "=" .. brief(rawget(text, keys[i])) end
    text = concat(parts, " ", 1, n)
  end
  S.log(brief(text))
end
G.ao = ao

-- What is replaced by the sandbox ----------------------------------------------------------------------

function S.sandbox(packed)
  for _, entry in rawnext, S.decode(packed) do
    local at, path, value = G, entry[1], entry[2]
    local names = {}
    for name in gmatch(path, "[^%.]+") do names[#names + 1] = name end
    for i = 1, #names - 1 do
      if type(at) == "table" then at = rawget(at, names[i]) end
    end
    if type(at) == "table" and #names > 0 then rawset(at, names[#names], value) end
  end
end

-- Calls -------------------------------------------------------------------------------------------------

local SELF = "=hyperpy"

local function shown(v)
  local kind = type(v)
  if kind == "string" then return sub(v, 1, 100) end
  if S.OBJECTS[kind] then return kind end
  return S.tostring(v)
end

-- Looks at a bounded number of levels: finding the n-th one takes n steps, and the library's own do not show.
local function trace()
  local found, outside = {}, false
  for level = 3, MAX_LEVELS + 2 do
    if #found == MAX_TRACE then break end
    local info = getinfo(level, "Snlu")
    if info == nil then
      outside = true
      break
    end
    if info.what ~= "C" and info.source ~= SELF and info.source ~= "=?" then
      local parameters = {}
      for i = 1, info.nparams do
        local name, v = getlocal(level, i)
        if name == nil then break end
        parameters[i] = shown(v)
      end
      found[#found + 1] = {
        ["function"] = info.what == "main" and "main" or info.name or "?",
        parameters = parameters,
        line = info.short_src .. ":" .. format("%d", info.currentline),
      }
    end
  end
  local outermost = found[#found]
  if outside and outermost ~= nil and outermost["function"] == "?" then outermost["function"] = S.called end
  return found
end

local function handler(e)
  if S.over() or S.fatal(e) then return { e, {} } end
  return { S.clean(e), trace() }
end

local gather = S.trust(function(ok, ...) return ok, S.raw_select("#", ...), { ... } end)

local function exceeded(used)
  return "limit", S.encode({ "instructions", S.TEXT.instructions }, 2), used
end

-- Runs f(...) within the limits; returns a word, its packed value and the instructions used.
local guarded = S.trust(function(instructions, f, ...)
  instructions = instructions or INSTRUCTIONS
  logs = 0
  S.begin(instructions)
  local ok, count, found = gather(raw_xpcall(f, handler, ...))
  local over, used = S.finish(instructions)
  if over then return "limit", S.encode({ over, S.TEXT[over] }, 2), used end
  if not ok then
    local failure = found[1]
    if type(failure) ~= "table" then failure = { failure, {} } end
    local why = S.fatal(failure[1])
    if why then return "limit", S.encode({ why, S.TEXT[why] }, 2), used end
    local fine, packed = raw_pcall(S.encode, failure, 2, nil, instructions - used)
    used = used + S.price()
    if packed == S.COSTLY then return exceeded(instructions) end
    if not fine then packed = S.encode({ "the error is no message: " .. packed, failure[2] }, 2) end
    return "error", packed, used
  end
  local fine, packed = raw_pcall(S.encode, found, count, nil, instructions - used)
  if packed == S.FULL then return "limit", S.encode({ "memory", S.TEXT.memory }, 2), used end
  used = used + S.price()
  if packed == S.COSTLY then return exceeded(instructions) end
  if not fine then return "error", S.encode({ packed, {} }, 2), used end
  return "ok", packed, used
end)

-- Calls the global function `name` with the packed parameters; with `own` none that the library brought along.
function S.call(name, packed, seconds, seed, own, instructions)
  S.called = name
  S.settle()
  local args = S.decode(packed)
  S.enter(seconds, seed)
  return guarded(instructions, function()
    local f = G[name]
    if f == nil or own and S.library(f) then error("there is no function '" .. name .. "'", 0) end
    return f(unpack(args, 1, #args))
  end)
end

-- Runs the modules, a packed list of [name, text]. They run without the table `ao`; one that they make is extended.
function S.boot(packed, seconds, seed, instructions)
  S.settle()
  local modules = S.decode(packed)
  S.called = "main"
  S.enter(seconds, seed)
  return guarded(instructions, function()
    local given = G.ao -- `ao`, unless the sandbox has replaced it
    G.ao = nil
    for i = 1, #modules do
      local name, text = modules[i][1], modules[i][2]
      local f, why = compile(text, "=" .. name)
      if f == nil then error(why, 0) end
      f()
    end
    local own = rawget(G, "ao")
    if given ~= ao or type(own) ~= "table" then
      rawset(G, "ao", given)
      return
    end
    for name, f in rawnext, ao do rawset(own, name, f) end
  end)
end

function S.functions()
  local names = {}
  for k, v in rawnext, G do
    if type(k) == "string" and type(v) == "function" then names[#names + 1] = k end
  end
  sort(names)
  return S.encode(names, #names)
end
