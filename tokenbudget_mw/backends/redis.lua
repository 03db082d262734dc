-- One call of a backend: reserve, peek, settle, abandon, credit, renew, seed or bar; all counters of it, atomically, in
-- one round trip.
--
-- KEYS: the counters, one hash each. ARGV[1]: the call, packed (see redis_script.py).
-- Fields of a hash:  s         {newest moment seen, moment the next lease ends (0: none), open leases, moment the key may
--                               go, window, head, 1 if it has a tail else 0, ...}
--                    t<window> the tail: what a long state has between its first three and its last two numbers
--                    l<id>     {end of the lease, window, algorithm, slot, amount, ...}: an open reservation
--                    e<id>     end of a lease that was never settled
--                    b         {end, status}: whose asks this counter stands for is refused until then
-- A head is the window's state as its algorithm keeps it, without the tail; so the usual call reads and writes little,
-- however much a window holds. MODULES comes from the files beside the Python ones. Moments are whole microseconds;
-- nothing here may be above 2^53 - 1, because Lua counts in doubles.
local MAX = 9007199254740991
local KEPT = 'requests:' -- windows that keep what an expired lease held
local BATCH = 64         -- leases ended in one call
local MANY = 256         -- open leases beyond which looking for ended ones is spread out, and unsettled ends remembered
local DAY = 86400000000
local SLACK = 60000000   -- a key lives so much longer than it must, and its end is moved that rarely
local HEAD = 5           -- a longer state has a tail
local FIRST = 5          -- where the windows begin in s
local CHECKS = 7         -- where the checks begin in the call
local WIDTH = 9          -- values a check
local MAX_OPEN = 10000   -- open leases of a counter

local run, pack, unpacked, max = redis.call, cmsgpack.pack, cmsgpack.unpack, math.max
local call = unpacked(ARGV[1])
local op, now, id, lease = call[1], call[2], call[3], call[4]
local holder, charged = call[5], call[6] -- which key is the holder's (0: none); how many keys the checks are about

-- A module is made when it is first needed: most calls need one or two.
local ALGORITHMS = setmetatable({}, {__index = function(made, name)
  local make = MODULES[name]
  made[name] = make and make()
  return made[name]
end})

local function are_whole(numbers, first, last)
  for at = first, last do
    local n = numbers[at]
    if not (type(n) == 'number' and n >= 0 and n <= MAX and n % 1 == 0) then
      return false
    end
  end
  return true
end

for at = CHECKS, #call, WIDTH do
  if not are_whole(call, at + 4, at + 6) or (op == 'seed' and not are_whole(call[at + 8], 1, #call[at + 8])) then
    return redis.error_reply('TOKENBUDGET amounts are whole numbers from 0 to 2^53 - 1')
  end
  if not MODULES[call[at + 2]] then
    return redis.error_reply('TOKENBUDGET unknown window algorithm')
  end
end

if now < 0 then
  local time = run('TIME')
  now = time[1] * 1000000 + time[2]
end

local function place(stored, window)
  for at = FIRST, #stored, 3 do
    if stored[at] == window then
      return at
    end
  end
end

-- The end of the key is put off: *ttl* from the counter's moment on at least.
local function outlive(key, stored, moment, ttl)
  if stored[4] < moment + ttl then
    stored[4] = moment + ttl + SLACK
    run('PEXPIRE', key, string.format('%.0f', math.ceil((stored[4] - moment) / 1000)))
  end
end

-- The way of nearly every reservation: known windows, in which everything fits. Nothing is written before all is known;
-- where it does not end well, the long way below starts anew.
local function reserve_quickly()
  local counters, reply = {}, {1}
  if holder > charged and run('HEXISTS', KEYS[holder], 'b') == 1 then
    return nil
  end
  for i = 1, charged do
    local values = run('HMGET', KEYS[i], 's', 'l' .. id, 'b')
    if not values[1] or values[2] or (values[3] and i == holder) then
      return nil
    end
    local stored = unpacked(values[1])
    local moment = max(now, stored[1])
    if (stored[2] > 0 and moment >= stored[2]) or (lease > 0 and stored[3] >= MAX_OPEN) then
      return nil
    end
    counters[i] = {stored, moment, {moment + lease}, lease}
  end
  for at = CHECKS, #call, WIDTH do
    local counter = counters[call[at]]
    local stored, moment = counter[1], counter[2]
    local window, name, params, cost, need = call[at + 1], call[at + 2], call[at + 3], call[at + 4], call[at + 5]
    local found = place(stored, window)
    if not (found and call[at + 7]) then
      return nil
    end
    local algorithm, cap = ALGORITHMS[name], call[at + 6]
    local slot, used, empty_at = algorithm.take(stored[found + 1], params, cost, need == 0 and MAX or cap - need, moment)
    if not slot then
      return nil
    end
    local holds, n = counter[3], #counter[3]
    holds[n + 1], holds[n + 2], holds[n + 3], holds[n + 4] = window, name, slot, cost
    counter[4] = max(counter[4], algorithm.lifetime(params, moment) + lease)
    n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4], reply[n + 5] =
      1, max(0, cap - used - cost), empty_at - now, 0, slot
  end
  for i = 1, charged do
    local stored, moment, holds, ttl = unpack(counters[i])
    stored[1] = moment
    outlive(KEYS[i], stored, moment, ttl)
    if lease > 0 then
      stored[2] = stored[2] == 0 and holds[1] or math.min(stored[2], holds[1])
      stored[3] = stored[3] + 1
      run('HSET', KEYS[i], 's', pack(stored), 'l' .. id, pack(holds))
    else
      run('HSET', KEYS[i], 's', pack(stored))
    end
  end
  return reply
end

if op == 'reserve' then
  local reply = reserve_quickly()
  if reply then
    return reply
  end
end
