-- The operations, the long way: whatever quick.lua has not answered.
local checks = {}
do
  local names, next = {}, {}
  for i = 1, #KEYS do
    names[i], next[i] = lines(ARGV[2 + i] or ''), 0
  end
  for at = CHECKS, stop, WIDTH do
    local key, algorithm, first_param, second_param, third_param, cost, second, third =
      unpacked('<i8i8i8i8i8i8i8i8', numbers, at)
    local flags = math.floor(algorithm / FLAG)
    next[key] = next[key] + 1
    checks[#checks + 1] = {
      key = key, window = names[key][next[key]], algorithm = algorithm % FLAG,
      params = {first_param, second_param, third_param}, cost = cost, need = second, cap = third,
      is_enforced = flags % 2 == 0, is_booked = flags >= 2,
      slot = second, actual = third, -- of a hold
    }
  end
end

-- Fits, remaining, microseconds until all has left, microseconds until it fits (-1: never), slot (-1: not charged).
local function answer(reply, counter, check, used, fitted, slot)
  local algorithm, state = ALGORITHMS[check.algorithm], state_of(counter, check.window)
  local wait = 0
  if not fitted then
    wait = -1
    if check.need <= check.cap then
      wait = algorithm.frees_at(state, check.params, used + check.need - check.cap, counter.moment) - now
    end
  end
  local reset = algorithm.empty_at(state, check.params, counter.moment) - now
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4], reply[n + 5] =
    fitted and 1 or 0, max(0, check.cap - used), reset, wait, slot
end

local function look(counter, check)
  local slot, used =
    ALGORITHMS[check.algorithm].peek(state_of(counter, check.window), check.params, counter.moment)
  return slot, used, check.need == 0 or used + check.need <= check.cap
end

local function charge(counter, check, slot)
  local algorithm, state = ALGORITHMS[check.algorithm], state_of(counter, check.window)
  algorithm.charge(state, check.params, slot, check.cost, counter.moment)
  counter.ttl = max(counter.ttl, algorithm.lifetime(check.params, counter.moment, state) + lease)
  counter.dirty[check.window] = true
  table.insert(counter.holds, {window = check.window, algorithm = check.algorithm, slot = slot, amount = check.cost})
end

-- The same id again: answer as before, and charge nothing.
local function repeated(counters)
  local reply = {1}
  for _, check in ipairs(checks) do
    local counter, charged_at = counters[check.key], -1
    for _, one in ipairs(counter.lease or {}) do
      if one.window == check.window then
        charged_at = one.slot
      end
    end
    local _, used, fitted = look(counter, check)
    answer(reply, counter, check, used, fitted or charged_at >= 0, charged_at)
  end
  return reply
end

local function hold(counter)
  local ends = counter.moment + lease
  counter.seen = counter.moment
  counter.changed = true
  if counter.bar and counter.moment >= counter.bar.ends then
    counter.fields['b'] = false
  end
  if lease > 0 then
    counter.holds.ends = ends
    counter.fields['l' .. id] = packed_lease(counter.holds)
    counter.ttl = max(counter.ttl, lease)
    counter.due = counter.due == 0 and ends or math.min(counter.due, ends)
    counter.open = counter.open + 1
  end
end

local function is_known(counters)
  for i = 1, charged do
    if counters[i].lease then
      return true
    end
  end
end

-- Why the ask is not even looked at; nil where it is.
local function turned_away(counters)
  local bar = counters[holder] and counters[holder].bar
  if bar and counters[holder].moment < bar.ends then
    return {-1, bar.status}
  end
  local unseeded = {-2}
  for i, check in ipairs(checks) do
    if check.is_booked and not counters[check.key].heads[check.window] then
      table.insert(unseeded, i - 1)
    end
  end
  return #unseeded > 1 and unseeded or nil
end

local function are_crowded(counters)
  for i = 1, charged do
    if counters[i].open >= MAX_OPEN then
      return true
    end
  end
end

local function reserve(counters, is_charged)
  local looks, admitted, shadowed = {}, true, true
  for i, check in ipairs(checks) do
    local slot, used, fitted = look(counters[check.key], check)
    looks[i] = {slot, used, fitted}
    admitted = admitted and (fitted or not check.is_enforced)
    shadowed = shadowed and (fitted or check.is_enforced)
  end
  if is_charged and admitted and lease > 0 and are_crowded(counters) then
    return {-1, 'crowded'}
  end
  for i = 1, charged do
    counters[i].holds = {}
  end
  local reply = {admitted and 1 or 0}
  for i, check in ipairs(checks) do
    local counter = counters[check.key]
    local slot, used, fitted = unpack(looks[i])
    if is_charged and admitted and (shadowed or check.is_enforced) then
      charge(counter, check, slot)
      answer(reply, counter, check, used + check.cost, true, slot)
    else
      answer(reply, counter, check, used, fitted, -1)
    end
  end
  for i = 1, charged do
    if #counters[i].holds > 0 then -- a settlement names no other counter
      hold(counters[i])
    end
  end
  return reply
end

-- Whether a window has started from the books since they know what is told only now.
local function has_it(counter, window)
  local started = lease > 0 and run('HGET', counter.key, 'a' .. window)
  return started and unpacked('<d', started) > lease
end

local function holds(held, window)
  for _, one in ipairs(held) do
    if one.window == window then
      return true
    end
  end
end

local function move(counter, check)
  if check.is_booked and (not counter.heads[check.window] or has_it(counter, check.window)) then
    return -- the truth is in the books, and the window will start from there, or did
  end
  local algorithm = ALGORITHMS[check.algorithm]
  local held = 0
  if counter.lease or (is_kept(check.window) and not counter.is_new) then
    held = check.cost
  end
  local more = algorithm.releases and -held or check.actual - held
  if more > 0 then
    local state = state_of(counter, check.window)
    algorithm.charge(state, check.params, check.slot, more, counter.moment)
    counter.ttl = max(counter.ttl, algorithm.lifetime(check.params, counter.moment, state))
    counter.dirty[check.window] = true
  elseif more < 0 and (not counter.lease or holds(counter.lease, check.window)) then
    algorithm.give_back(state_of(counter, check.window), check.slot, -more)
    counter.dirty[check.window] = true
  end
end

-- A counter that is gone lost what it held (Redis was restarted without its data): the truth is charged in full.
local function settle(counters)
  local moved = 0
  for _, counter in ipairs(counters) do
    counter.is_moved = counter.lease or counter.ended or counter.is_new
  end
  for _, check in ipairs(checks) do
    if counters[check.key].is_moved then
      move(counters[check.key], check)
    end
  end
  for _, counter in ipairs(counters) do
    if counter.is_moved then
      moved = 1
      counter.seen = counter.moment
      counter.changed = true
      counter.fields[(counter.lease and 'l' or 'e') .. id] = false
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
      counter.fields['l' .. id] = false
      counter.seen = counter.moment
      counter.open = counter.open - 1
      counter.changed = true
    end
  end
  return 1
end

-- Open reservations hold nothing any more of the windows of which nothing counts.
local function forget(counter, windows)
  local all = run('HGETALL', counter.key)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 1) == 'l' then
      local held = lease_of(all[i + 1])
      local kept = {ends = held.ends}
      for _, one in ipairs(held) do
        if not windows[one.window] then
          table.insert(kept, one)
        end
      end
      if #kept < #held then
        run('HSET', counter.key, all[i], packed_lease(kept)) -- at once: they may be more than one HSET takes
      end
    end
  end
end

-- An operator takes something off.
local function credit(counters)
  local emptied = {}
  for _, check in ipairs(checks) do
    local counter = counters[check.key]
    if counter.heads[check.window] then
      local state, algorithm = state_of(counter, check.window), ALGORITHMS[check.algorithm]
      algorithm.credit(state, check.cost)
      counter.dirty[check.window] = true
      counter.changed = true
      local _, used = algorithm.peek(state, check.params, counter.moment)
      if used == 0 then -- what has left may still stand in it
        emptied[counter] = emptied[counter] or {}
        emptied[counter][check.window] = true
      end
    end
  end
  for counter, windows in pairs(emptied) do
    forget(counter, windows)
  end
  return 1
end

-- An open reservation ends *lease* from now, not earlier.
local function renew(counters)
  for _, counter in ipairs(counters) do
    if not counter.lease then
      return 0
    end
  end
  for _, counter in ipairs(counters) do
    local ends = counter.moment + lease
    if ends > counter.lease.ends then
      counter.lease.ends = ends -- the moment in s is then too early, which a sweep puts right
      counter.fields['l' .. id] = packed_lease(counter.lease)
      counter.ttl = lease
    end
    counter.seen = counter.moment
    counter.changed = true
  end
  return 1
end

-- What the books say, where nobody has counted yet.
local function seed(counters)
  local at = stop + WIDTH
  for _, check in ipairs(checks) do
    local counter, algorithm = counters[check.key], ALGORITHMS[check.algorithm]
    local is_known = counter.heads[check.window] or counter.dirty[check.window]
    for _ = 1, check.cost do
      if not is_known then
        local slot, amount = unpacked('<i8i8', numbers, at)
        algorithm.charge(state_of(counter, check.window), check.params, slot, amount, counter.moment)
      end
      at = at + 16
    end
    if not is_known then
      local state = state_of(counter, check.window)
      counter.ttl = max(counter.ttl, algorithm.lifetime(check.params, counter.moment, state))
      counter.seen = counter.moment
      counter.dirty[check.window] = true
      counter.fields['a' .. check.window] = pack('<d', counter.moment)
      counter.changed = true
    end
  end
  return 1
end

-- The holder's asks are refused for *lease* from now on, as the id says; not any more where that is empty.
local function bar(counters)
  local counter = counters[1]
  if id ~= '' then
    counter.fields['b'] = pack('<d', counter.moment + lease) .. id
    counter.ttl = lease
    counter.changed = true
  elseif counter.bar then
    counter.fields['b'] = false
    counter.changed = true
  end
  return 1
end

local OPERATIONS = {[SETTLE] = settle, [ABANDON] = abandon, [CREDIT] = credit, [RENEW] = renew, [SEED] = seed, [BAR] = bar}

if now < 0 then
  local time = run('TIME')
  now = time[1] * 1000000 + time[2]
end
local counters = {}
for i, key in ipairs(KEYS) do
  local counter = load(key)
  if counter.due > 0 and counter.moment >= counter.due then
    sweep(counter)
  end
  counters[i] = counter
end

local result
if OPERATIONS[op] then
  result = OPERATIONS[op](counters)
elseif op == RESERVE and is_known(counters) then
  result = repeated(counters)
else
  result = turned_away(counters) or reserve(counters, op == RESERVE)
end
for _, counter in ipairs(counters) do
  if counter.changed then
    save(counter)
  end
end
if type(result) == 'table' and result[1] >= 0 then
  return pack('<' .. string.rep('i8', #result), unpack(result))
end
return result
