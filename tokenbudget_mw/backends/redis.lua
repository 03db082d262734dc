-- One call of a backend: reserve, peek, settle or abandon; all counters of it, atomically, in one round trip.
--
-- KEYS: the counters, one hash each. ARGV[1]: the call, packed (see redis_script.py).
-- Fields of a hash:  m         {newest moment seen, moment the next lease ends (0: none), open leases}
--                    w<window> the window's state, as its algorithm keeps it
--                    l<id>     {end of the lease, {window, algorithm, slot, amount}, ...}: an open reservation
--                    e<id>     end of a lease that was never settled
-- ALGORITHMS comes from the files beside the Python ones. Moments are whole microseconds; nothing here may be above
-- 2^53 - 1, because Lua counts in doubles.
local MAX = 9007199254740991
local KEPT = 'requests:' -- windows that keep what an expired lease held
local BATCH = 64         -- leases ended in one call
local MANY = 256         -- open leases beyond which looking for ended ones is spread out, and unsettled ends remembered
local DAY = 86400000000

local op, now, id, lease, checks = unpack(cmsgpack.unpack(ARGV[1]))

local function is_whole(n)
  return type(n) == 'number' and n >= 0 and n <= MAX and n == math.floor(n)
end

for _, check in ipairs(checks) do
  local is_sound = is_whole(check.cost) and is_whole(check.need or 0)
  if not (is_sound and is_whole(check.cap or check.actual) and is_whole(check.slot or 0)) then
    return redis.error_reply('TOKENBUDGET amounts are whole numbers from 0 to 2^53 - 1')
  end
  if not ALGORITHMS[check.algorithm] then
    return redis.error_reply('TOKENBUDGET unknown window algorithm')
  end
end

if now < 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function read(packed, otherwise)
  return packed and cmsgpack.unpack(packed) or otherwise
end

local function is_kept(window)
  return string.sub(window, 1, #KEPT) == KEPT
end

local function load(key, windows)
  local fields = {'m', 'l' .. id, 'e' .. id}
  for i, window in ipairs(windows) do
    fields[i + 3] = 'w' .. window
  end
  local values = redis.call('HMGET', key, unpack(fields))
  local counter = {key = key, states = {}, writes = {}, drops = {}, dirty = {}, ttl = 0}
  counter.is_new = not values[1]
  counter.newest, counter.due, counter.open = unpack(read(values[1], {0, 0, 0}))
  counter.lease = read(values[2])
  counter.ended = values[3]
  counter.moment = math.max(now, counter.newest)
  for i, window in ipairs(windows) do
    counter.states[window] = read(values[i + 3], {0})
  end
  return counter
end

local function state_of(counter, window)
  local state = counter.states[window]
  if not state then
    state = read(redis.call('HGET', counter.key, 'w' .. window), {0})
    counter.states[window] = state
  end
  return state
end

-- Everything that was held goes back, but not the requests: they were made.
local function give_back(counter, held, with_requests)
  for i = 2, #held do
    local window, algorithm, slot, amount = unpack(held[i])
    if with_requests or not is_kept(window) then
      ALGORITHMS[algorithm].give_back(state_of(counter, window), slot, amount)
      counter.dirty[window] = true
    end
  end
end

local function finish(counter, name, ends, remembered)
  table.insert(counter.drops, 'l' .. name)
  counter.open = counter.open - 1
  if name == id then
    counter.lease, counter.ended = nil, ends
  end
  if remembered < MANY and not (name == id and op == 'settle') then
    table.insert(counter.writes, 'e' .. name)
    table.insert(counter.writes, ends)
  end
end

local function sweep(counter)
  local all = redis.call('HGETALL', counter.key)
  local ended, remembered, due = {}, 0, 0
  for i = 1, #all, 2 do
    local kind, name = string.sub(all[i], 1, 1), string.sub(all[i], 2)
    if kind == 'l' then
      local held = cmsgpack.unpack(all[i + 1])
      if held[1] <= counter.moment and #ended < BATCH then
        table.insert(ended, {name, held})
      elseif due == 0 or held[1] < due then
        due = held[1]
      end
    elseif kind == 'e' then
      if tonumber(all[i + 1]) + DAY < counter.moment then
        table.insert(counter.drops, all[i])
      else
        remembered = remembered + 1
      end
    end
  end
  for _, lost in ipairs(ended) do
    give_back(counter, lost[2])
    finish(counter, lost[1], string.format('%.0f', lost[2][1]), remembered)
    remembered = remembered + 1
  end
  if due > 0 and counter.open > MANY then
    due = math.max(due, counter.moment + counter.open * 100)
  end
  counter.due = due
  counter.changed = true
  if #ended > 0 then
    counter.newest = counter.moment
  end
end

local function save(counter)
  local writes = counter.writes
  table.insert(writes, 'm')
  table.insert(writes, cmsgpack.pack({counter.newest, counter.due, counter.open}))
  for window in pairs(counter.dirty) do
    table.insert(writes, 'w' .. window)
    table.insert(writes, cmsgpack.pack(counter.states[window]))
  end
  if #counter.drops > 0 then
    redis.call('HDEL', counter.key, unpack(counter.drops))
  end
  redis.call('HSET', counter.key, unpack(writes))
  local ttl = math.ceil(counter.ttl / 1000) + 60000
  if redis.call('PTTL', counter.key) < ttl then
    redis.call('PEXPIRE', counter.key, string.format('%.0f', ttl))
  end
end

-- Fits, remaining, microseconds until all has left, microseconds until it fits (-1: never), slot (-1: not charged).
local function answer(counter, check, used, fitted, slot)
  local algorithm, state = ALGORITHMS[check.algorithm], counter.states[check.window]
  local wait = 0
  if not fitted then
    wait = -1
    if check.need <= check.cap then
      wait = algorithm.frees_at(state, check.params, used + check.need - check.cap, counter.moment) - now
    end
  end
  local reset = algorithm.empty_at(state, check.params, counter.moment) - now
  return {fitted and 1 or 0, math.max(0, check.cap - used), reset, wait, slot}
end

local function charge(counter, check, slot)
  local algorithm = ALGORITHMS[check.algorithm]
  algorithm.charge(counter.states[check.window], check.params, slot, check.cost, counter.moment)
  counter.ttl = math.max(counter.ttl, algorithm.lifetime(check.params, counter.moment) + lease)
  counter.dirty[check.window] = true
  table.insert(counter.holds, {check.window, check.algorithm, slot, check.cost})
end

-- The same id again: answer as before, and charge nothing.
local function repeated(counters)
  local states = {}
  for i, check in ipairs(checks) do
    local counter = counters[check.key]
    local charged = -1
    for k = 2, #(counter.lease or {}) do
      if counter.lease[k][1] == check.window then
        charged = counter.lease[k][3]
      end
    end
    local _, used = ALGORITHMS[check.algorithm].peek(counter.states[check.window], check.params, counter.moment)
    local fitted = charged >= 0 or check.need == 0 or used + check.need <= check.cap
    states[i] = answer(counter, check, used, fitted, charged)
  end
  return {1, states}
end

local function reserve(counters, is_charged)
  local looks, admitted, shadowed = {}, true, true
  for i, check in ipairs(checks) do
    local counter = counters[check.key]
    local slot, used = ALGORITHMS[check.algorithm].peek(counter.states[check.window], check.params, counter.moment)
    local fitted = check.need == 0 or used + check.need <= check.cap
    looks[i] = {slot, used, fitted}
    admitted = admitted and (fitted or not check.enforced)
    shadowed = shadowed and (fitted or check.enforced)
  end
  for _, counter in ipairs(counters) do
    counter.holds = {counter.moment + lease}
  end
  local states = {}
  for i, check in ipairs(checks) do
    local counter = counters[check.key]
    local slot, used, fitted = unpack(looks[i])
    if is_charged and admitted and (shadowed or check.enforced) then
      charge(counter, check, slot)
      states[i] = answer(counter, check, used + check.cost, true, slot)
    else
      states[i] = answer(counter, check, used, fitted, -1)
    end
  end
  if is_charged and admitted then
    for _, counter in ipairs(counters) do
      local ends = counter.moment + lease
      table.insert(counter.writes, 'l' .. id)
      table.insert(counter.writes, cmsgpack.pack(counter.holds))
      counter.ttl = math.max(counter.ttl, lease)
      counter.due = counter.due == 0 and ends or math.min(counter.due, ends)
      counter.open = counter.open + 1
      counter.newest = counter.moment
      counter.changed = true
    end
  end
  return {admitted and 1 or 0, states}
end

local function move(counter, hold)
  local algorithm, state = ALGORITHMS[hold.algorithm], counter.states[hold.window]
  local held = 0
  if counter.lease or (is_kept(hold.window) and not counter.is_new) then
    held = hold.cost
  end
  local more = algorithm.releases and -held or hold.actual - held
  if more > 0 then
    algorithm.charge(state, hold.params, hold.slot, more, counter.moment)
    counter.ttl = math.max(counter.ttl, algorithm.lifetime(hold.params, counter.moment))
  elseif more < 0 then
    algorithm.give_back(state, hold.slot, -more)
  end
  counter.dirty[hold.window] = true
end

-- A counter that is gone lost what it held (Redis was restarted without its data): the truth is charged in full.
local function settle(counters)
  local moved = 0
  for _, counter in ipairs(counters) do
    counter.is_moved = counter.lease or counter.ended or counter.is_new
  end
  for _, hold in ipairs(checks) do
    if counters[hold.key].is_moved then
      move(counters[hold.key], hold)
    end
  end
  for _, counter in ipairs(counters) do
    if counter.is_moved then
      moved = 1
      counter.newest = counter.moment
      counter.changed = true
      counter.drops = {'l' .. id, 'e' .. id, unpack(counter.drops)}
      counter.open = counter.open - (counter.lease and 1 or 0)
    end
  end
  return moved
end

-- Nobody waits for this reservation any more: everything goes back, the request itself too.
local function abandon(counters)
  for _, counter in ipairs(counters) do
    if counter.lease then
      give_back(counter, counter.lease, true)
      table.insert(counter.drops, 'l' .. id)
      counter.open = counter.open - 1
      counter.newest = counter.moment
      counter.changed = true
    end
  end
  return 1
end

local windows = {}
for i = 1, #KEYS do
  windows[i] = {}
end
for _, check in ipairs(checks) do
  table.insert(windows[check.key], check.window)
end

local counters = {}
for i, key in ipairs(KEYS) do
  local counter = load(key, windows[i])
  if counter.due > 0 and counter.moment >= counter.due then
    sweep(counter)
  end
  counters[i] = counter
end

local result
if op == 'settle' then
  result = settle(counters)
elseif op == 'abandon' then
  result = abandon(counters)
elseif op == 'reserve' and counters[1].lease then
  result = repeated(counters)
else
  result = reserve(counters, op == 'reserve')
end
for _, counter in ipairs(counters) do
  if counter.changed then
    save(counter)
  end
end
return result
