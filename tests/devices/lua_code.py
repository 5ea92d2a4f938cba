"""Lua texts of the tests."""

MODULE = b"""
function assoctable() return {a = 1, b = 2} end
function hello(base, req) base.hello = req.name or "world" return base end
function pair() return "error", "Very bad, but Lua caught it." end
function boom(base) error("hello") end
function nothing() end
function number() return 42 end
function float() return 42.0 end
function mixed(b, r) return {a=1, b={x=true, y="hello"}, c={1,2,3}, d=1.5, got=r.arg, e={}} end
function args(...) return {n = select("#", ...), first = (...), kind = math.type((...))} end
function bump(base) base.count = (base.count or 0) + 1 return base end
local hidden = 0
function tick(base) hidden = hidden + 1 base.hidden = hidden return base end
function fail_after(base) hidden = hidden + 100 error("after") end
function getenv() return os.getenv("HOME") end
function eval(base, req) return load(req.code)() end
function greeting() local s, v = ao.resolve({path = "/~message@1.0&hello=Hello, AO world!/hello"}) return v end
function ask(base, req) local s, v = ao.resolve(req.ask) return {status = s, value = v} end
function getone() return ao.get("b/c", {b = {c = 7}}) end
function setone() return ao.set({a = 1}, "b", 2) end
function settable() return ao.set({a = 1}, {b = 2}) end
function cast() local s, v = ao.resolve({"as", "test-device@1.0", {a = "1"}}, "info") return {status = s} end
function remember(base) state = state or {} state[#state + 1] = #state base.size = #state return base end
"""

BOMBS = {
    "zeros quoted": b"""function run()
        local s = ('\\0'):rep(1000000) for i = 1, 1000000 do string.format('%q', s) end end""",
    "a text nearly found": b"""function run()
        local s = ('a'):rep(50000) for i = 1, 10000000 do s:find('ab', 1, true) end end""",
    "replacements of every byte": b"""function run()
        local s = ('a'):rep(10000) for i = 1, 10000000 do s:gsub('.', '%0%0%0') end end""",
    "floats written out": b"function run() for i = 1, 1e8 do local x = string.format('%f', 1e308 / i) end end",
    "floats in a list": b"""function run()
        local t = {} for i = 1, 100000 do t[i] = 1e308 / i end for i = 1, 1e8 do table.concat(t) end end""",
    "a million keys": b"function run(base) base.r = {} for i = 1, 1000000 do base.r['k' .. i] = i end return base end",
    "a million keys as an error": b"function run() local r = {} for i = 1, 1000000 do r['k' .. i] = i end error(r) end",
    "loop": b"function run() while true do end end",
    "loop in pcall": b"function f() while true do end end function run() while true do pcall(f) end end",
    "loop in xpcall's handler": b"""
        function f() while true do end end
        function run() xpcall(f, f) while true do end end""",
    "error in a handler of errors": b"""
        function f() error("x") end
        function run() while true do xpcall(f, function() while true do end end) end end""",
    "loop in a coroutine": b"""
        function f() while true do end end
        function run() while true do coroutine.resume(coroutine.create(f)) end end""",
    "loop in coroutine.wrap": b"""
        function f() while true do end end
        function run() while true do pcall(coroutine.wrap(f)) end end""",
    "short coroutines": b"""
        function run() while true do local co = coroutine.create(function() coroutine.yield() end)
        coroutine.resume(co) end end""",
    "a comparison that never ends": b"""
        function run() table.sort({3, 1, 2}, function() while true do end end) end""",
    "a replacement that never ends": b"""
        function run() ("aaa"):gsub("a", function() while true do end end) end""",
    "a metamethod that never ends": b"""
        function run() local t = setmetatable({}, {__index = function() while true do end end}) return t.x end""",
    "a tostring that never ends": b"""
        function run() tostring(setmetatable({}, {__tostring = function() while true do end end})) end""",
    "a pairs that never ends": b"""
        function run() for _ in pairs(setmetatable({}, {__pairs = function() while true do end end})) do end end""",
    "a pattern that needs powers": b"function run() return (('a'):rep(5000)):find('.-.-.-.-b') end",
    "a pattern that needs exponents": b"""
        function run() return (('a'):rep(30)):find(('a?'):rep(30) .. ('a'):rep(31)) end""",
    "many patterns": b"""
        function run() local s = ('a'):rep(200) while true do s:find('a*b') s:match('a-b') s:gsub('a*b', '') end end""",
    "a long plain search": b"""
        function run() local s, p = ('a'):rep(300000), ('a'):rep(150000) .. 'b'
        while true do s:find(p, 1, true) end end""",
    "a repetition": b"function run() while true do pcall(string.rep, 'x', 1 << 40) end end",
    "a join of nothing": b"""
        function run() return table.concat(setmetatable({}, {__index = type}), '', 1, 1 << 40) end""",
    "a move of nothing": b"function run() return table.move({}, 1, 1 << 50, 2) end",
    "an insert into much": b"""
        function run() table.insert(setmetatable({}, {__len = function() return 1 << 50 end}), 1, 5) end""",
    "a reader that never ends": b"function run() return load(function() return ' ' end) end",
    "questions without end": b"function run() while true do ao.resolve({a = 1}, 'a') end end",
    "a compiler at work": b"function run() while true do load(('goto a ::b:: '):rep(1000)) end end",
    "print": b"function run() while true do print('x') end end",
}
"""What ends at the instruction limit."""

GREEDY = {
    "tables": b"function run() local t = {} while true do t[#t + 1] = {} end end",
    "a string that doubles": b"function run() local s = 'x' while true do s = s .. s end end",
    "a string that doubles in pcall": b"""
        function f() local s = 'x' while true do s = s .. s end end
        function run() while true do pcall(f) end end""",
    "garbage of long strings": b"""
        function run() local s = ('x'):rep(1 << 20) local n = 0 while true do local t = s .. n n = n + 1 end end""",
    "a buffer": b"function run() return ('x'):rep(1 << 29) end",
    "packed bytes": b"function run() return string.pack('c' .. (1 << 29), '') end",
}
"""What ends at the memory limit."""

DEEP = {
    "pcall in pcall": b"function run() while true do pcall(run) end end",
    "xpcall in its own handler": b"function run() while true do xpcall(run, run) end end",
    "a handler that never ends": b"function run() while true do xpcall(run, function() while true do end end) end end",
    "coroutines in coroutines": b"function run() while true do pcall(coroutine.wrap(run)) end end",
    "replacements in replacements": b"function run() while true do pcall(string.gsub, 'a', 'a', run) end end",
    "metamethods in metamethods": b"""
        local mt = {__index = function(t, k) while true do pcall(function() return t[k] end) end end}
        function run() return setmetatable({}, mt).x end""",
    "a loop where the stack is full": b"""
        local function deep(n, ...)
          if n == 0 then while true do pcall(deep, 3, ...) end end
          return (deep(n - 1, ...)) end
        function run() deep(5000, table.unpack({}, 1, 180)) end""",
    "tostring in tostring": b"""
        local t = setmetatable({}, {__tostring = function(t) return tostring(t) end})
        function run() return tostring(t) end""",
    "format in format": b"""
        local t = setmetatable({}, {__tostring = function(t) return string.format("%s", t) end})
        function run() return string.format("%s", t) end""",
    "pairs in pairs": b"""
        local t = setmetatable({}, {__pairs = function(t) return pairs(t) end})
        function run() return pairs(t) end""",
    "require in require": b"""
        package.preload.x = function() return require("x") end
        function run() return require("x") end""",
}
"""What ends where the stack is full: there no hook can run, so nothing may go on."""

RECURSION = {
    "deep recursion": b"function run() return 1 + run() end",
    "deep recursion in pcall": b"""
        function f() return 1 + f() end
        function run() while true do pcall(f) end end""",
}

ESCAPES = [
    "return io",
    "return debug",
    "return python",
    "return collectgarbage('count') ~= 0 or nil",
    "return string.dump",
    "return package.loaded.io or package.loaded.debug or package.loaded.python",
    "return os.execute ~= 'sandboxed' and os.execute or nil",
    "return load('\\27Lua')",
    "return load(string.char(27) .. 'LuaS', 'x', 'b')",
    "return (load('x', 'x', 'b'))",
    "return getmetatable('').__index ~= string and 1 or nil",
    "return require and pcall(require, 'lfs') or nil",
    "return pcall(require, 'io') or nil",
    "return getmetatable(print)",
    "return getmetatable(ao.resolve)",
    "for k, v in pairs(_G) do if type(v) == 'userdata' then return k end end return nil",
    "local ran = false setmetatable({}, {__gc = function() ran = true end}) "
    "for i = 1, 1e5 do local t = {} end return ran or nil",
]
"""Each is nil where there is no way out."""

AOS = b"""
-- A module in the manner of aos: packages, closures, handlers, and code that comes with messages.
local function load_utils()
  local utils = {}
  function utils.keys(t) local r = {} for k in pairs(t) do r[#r + 1] = k end return r end
  function utils.matches(pattern, msg)
    for k, v in pairs(pattern) do if msg[k] ~= v then return false end end
    return true
  end
  return utils
end
_G.package.loaded[".utils"] = load_utils()
local utils = require(".utils")
Handlers = { list = {} }
function Handlers.add(name, pattern, handle)
  for _, h in ipairs(Handlers.list) do if h.name == name then h.handle = handle return end end
  table.insert(Handlers.list, { name = name, pattern = pattern, handle = handle })
end
local seen = 0
Inbox = Inbox or {}
function compute(base, assignment)
  local msg = assignment.body or {}
  seen = seen + 1
  collectgarbage()
  os.time = function() return assignment.timestamp or 0 end
  ao.event(base.process) ao.event("group", assignment.body)
  table.insert(Inbox, msg.action or "none")
  base.results = { output = { data = "" }, seen = seen }
  if msg.action == "Eval" then
    local f, why = load("return " .. msg.data, "=aos", "t", _G)
    if not f then f, why = load(msg.data, "=aos", "t", _G) end
    if not f then base.results.output.data = why return base end
    local made = f()
    base.results.output.data = tostring(made)
    base.results.output.prompt = "aos> "
    return base
  end
  for _, h in ipairs(Handlers.list) do
    if utils.matches(h.pattern, msg) then base.results.output.data = tostring(h.handle(msg)) end
  end
  return base
end
"""
