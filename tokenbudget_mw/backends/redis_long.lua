-- The long way: whatever redis.lua, which stands before this file in the script, has not answered.
local checks = {}
for at = CHECKS, #call, WIDTH do
  checks[#checks + 1] = {
    key = call[at], window = call[at + 1], algorithm = call[at + 2], params = call[at + 3], cost = call[at + 4],
    need = call[at + 5], cap = call[at + 6], enforced = call[at + 7],
    is_booked = call[at + 8],
    slot = call[at + 5], actual = call[at + 6], -- of a hold
    charges = call[at + 8],                     -- of a seed: slot, amount, slot, amount, ...
  }
end

local function load(key)
  local values = run('HMGET', key, 's', 'l' .. id, 'e' .. id, 'b')
  local stored = values[1] and unpacked(values[1]) or {0, 0, 0, 0}
  return {
    key = key, stored = stored, is_new = #stored < FIRST, moment = max(now, stored[1]),
    lease = values[2] and unpacked(values[2]), ended = values[3], bar = values[4] and unpacked(values[4]),
    states = {}, writes = {}, drops = {}, dirty = {}, ttl = 0,
  }
end

local function state_of(counter, window)
  local state = counter.states[window]
  if state then
    return state
  end
  local at = place(counter.stored, window)
  state = at and counter.stored[at + 1] or {0}
  if at and counter.stored[at + 2] == 1 then
    local head, tail = state, unpacked(run('HGET', counter.key, 't' .. window))
    state = {head[1], head[2], head[3]} -- not the head itself, which is stored again if nothing changes
    for i = 1, #tail do
      state[3 + i] = tail[i]
    end
    state[4 + #tail], state[5 + #tail] = head[4], head[5]
  end
  counter.states[window] = state
  return state
end

local function store_state(counter, window)
  local stored, state = counter.stored, counter.states[window]
  local at, n = place(stored, window), #state
  if not at then
    at = #stored + 1
    stored[at], stored[at + 2] = window, 0
  end
  if n > HEAD then
    local tail = {}
    for i = 4, n - 2 do
      tail[i - 3] = state[i]
    end
    table.insert(counter.writes, 't' .. window)
    table.insert(counter.writes, pack(tail))
    stored[at + 1], stored[at + 2] = {state[1], state[2], state[3], state[n - 1], state[n]}, 1
  else
    if stored[at + 2] == 1 then
      table.insert(counter.drops, 't' .. window)
    end
    stored[at + 1], stored[at + 2] = state, 0
  end
end

local function is_kept(window)
  return string.sub(window, 1, #KEPT) == KEPT
end

-- Everything that was held goes back, but not the requests: they were made.
local function give_back(counter, held, with_requests)
  for i = 2, #held, 4 do
    local window, algorithm, slot, amount = unpack(held, i, i + 3)
    if with_requests or not is_kept(window) then
      ALGORITHMS[algorithm].give_back(state_of(counter, window), slot, amount)
      counter.dirty[window] = true
    end
  end
end

local function finish(counter, name, ends, remembered)
  table.insert(counter.drops, 'l' .. name)
  counter.stored[3] = counter.stored[3] - 1
  if name == id then
    counter.lease, counter.ended = nil, ends
  end
  if remembered < MANY and not (name == id and op == 'settle') then
    table.insert(counter.writes, 'e' .. name)
    table.insert(counter.writes, ends)
  end
end

local function sweep(counter)
  local all = run('HGETALL', counter.key)
  local ended, remembered, due = {}, 0, 0
  for i = 1, #all, 2 do
    local kind, name = string.sub(all[i], 1, 1), string.sub(all[i], 2)
    if kind == 'l' then
      local held = unpacked(all[i + 1])
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
  local open = counter.stored[3]
  if due > 0 and open > MANY then
    due = max(due, counter.moment + open * 100)
  end
  counter.stored[2] = due
  counter.changed = true
  if #ended > 0 then
    counter.stored[1] = counter.moment
  end
end

local function save(counter)
  for window in pairs(counter.dirty) do
    store_state(counter, window)
  end
  if #counter.drops > 0 then
    run('HDEL', counter.key, unpack(counter.drops))
  end
  -- The end of the key stands in s, so it is known before s is written; a key that is not there yet cannot be given one.
  local ends = counter.stored[4]
  if ends < counter.moment + counter.ttl or ends == 0 then
    ends = counter.moment + counter.ttl + SLACK
    counter.stored[4] = ends
  end
  run('HSET', counter.key, 's', pack(counter.stored), unpack(counter.writes))
  run('PEXPIRE', counter.key, string.format('%.0f', math.ceil((ends - counter.moment) / 1000)))
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
  for _, value in ipairs({fitted and 1 or 0, max(0, check.cap - used), reset, wait, slot}) do
    table.insert(reply, value)
  end
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
  for _, value in ipairs({check.window, check.algorithm, slot, check.cost}) do
    table.insert(counter.holds, value)
  end
end

-- The same id again: answer as before, and charge nothing.
local function repeated(counters)
  local reply = {1}
  for _, check in ipairs(checks) do
    local counter = counters[check.key]
    local held, charged = counter.lease or {}, -1
    for at = 2, #held, 4 do
      if held[at] == check.window then
        charged = held[at + 2]
      end
    end
    local _, used, fitted = look(counter, check)
    answer(reply, counter, check, used, fitted or charged >= 0, charged)
  end
  return reply
end

local function hold(counter)
  local ends, stored = counter.moment + lease, counter.stored
  stored[1] = counter.moment
  counter.changed = true
  if counter.bar and counter.moment >= counter.bar[1] then
    table.insert(counter.drops, 'b')
  end
  if lease > 0 then
    table.insert(counter.writes, 'l' .. id)
    table.insert(counter.writes, pack(counter.holds))
    counter.ttl = max(counter.ttl, lease)
    stored[2] = stored[2] == 0 and ends or math.min(stored[2], ends)
    stored[3] = stored[3] + 1
  end
end

-- Why the ask is not even looked at; nil where it is.
local function turned_away(counters)
  local bar = counters[holder] and counters[holder].bar
  if bar and counters[holder].moment < bar[1] then
    return {-1, bar[2]}
  end
  local unseeded = {-2}
  for i, check in ipairs(checks) do
    if check.is_booked and not place(counters[check.key].stored, check.window) then
      table.insert(unseeded, i - 1)
    end
  end
  return #unseeded > 1 and unseeded or nil
end

local function are_crowded(counters)
  for i = 1, charged do
    if counters[i].stored[3] >= MAX_OPEN then
      return true
    end
  end
end

local function reserve(counters, is_charged)
  local looks, admitted, shadowed = {}, true, true
  for i, check in ipairs(checks) do
    local slot, used, fitted = look(counters[check.key], check)
    looks[i] = {slot, used, fitted}
    admitted = admitted and (fitted or not check.enforced)
    shadowed = shadowed and (fitted or check.enforced)
  end
  if is_charged and admitted and lease > 0 and are_crowded(counters) then
    return {-1, 'crowded'}
  end
  for i = 1, charged do
    counters[i].holds = {counters[i].moment + lease}
  end
  local reply = {admitted and 1 or 0}
  for i, check in ipairs(checks) do
    local counter = counters[check.key]
    local slot, used, fitted = unpack(looks[i])
    if is_charged and admitted and (shadowed or check.enforced) then
      charge(counter, check, slot)
      answer(reply, counter, check, used + check.cost, true, slot)
    else
      answer(reply, counter, check, used, fitted, -1)
    end
  end
  if is_charged and admitted then
    for i = 1, charged do
      hold(counters[i])
    end
  end
  return reply
end

local function move(counter, check)
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
  elseif more < 0 then
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
      counter.stored[1] = counter.moment
      counter.changed = true
      table.insert(counter.drops, counter.lease and 'l' .. id or 'e' .. id)
      counter.stored[3] = counter.stored[3] - (counter.lease and 1 or 0)
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
      counter.stored[1] = counter.moment
      counter.stored[3] = counter.stored[3] - 1
      counter.changed = true
    end
  end
  return 1
end

-- An operator takes something off.
local function credit(counters)
  for _, check in ipairs(checks) do
    local counter = counters[check.key]
    if place(counter.stored, check.window) then
      ALGORITHMS[check.algorithm].credit(state_of(counter, check.window), check.cost)
      counter.dirty[check.window] = true
      counter.changed = true
    end
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
    if ends > counter.lease[1] then
      counter.lease[1] = ends -- the next end of a lease that s tells of is then too early, which a sweep puts right
      table.insert(counter.writes, 'l' .. id)
      table.insert(counter.writes, pack(counter.lease))
      counter.ttl = lease
      counter.changed = true
    end
  end
  return 1
end

-- What the books say, where nobody has counted yet.
local function seed(counters)
  for _, check in ipairs(checks) do
    local counter = counters[check.key]
    if not place(counter.stored, check.window) and not counter.dirty[check.window] then
      local algorithm, state = ALGORITHMS[check.algorithm], state_of(counter, check.window)
      for at = 1, #check.charges, 2 do
        algorithm.charge(state, check.params, check.charges[at], check.charges[at + 1], counter.moment)
      end
      counter.ttl = max(counter.ttl, algorithm.lifetime(check.params, counter.moment, state))
      counter.stored[1] = counter.moment
      counter.dirty[check.window] = true
      counter.changed = true
    end
  end
  return 1
end

-- The holder's asks are refused for *lease* from now on, as the id says; not any more where that is empty.
local function bar(counters)
  local counter = counters[1]
  if id ~= '' then
    table.insert(counter.writes, 'b')
    table.insert(counter.writes, pack({counter.moment + lease, id}))
    counter.ttl = lease
    counter.changed = true
  elseif counter.bar then
    table.insert(counter.drops, 'b')
    counter.changed = true
  end
  return 1
end

local counters = {}
for i, key in ipairs(KEYS) do
  local counter = load(key)
  if counter.stored[2] > 0 and counter.moment >= counter.stored[2] then
    sweep(counter)
  end
  counters[i] = counter
end

local result
if op == 'settle' then
  result = settle(counters)
elseif op == 'abandon' then
  result = abandon(counters)
elseif op == 'credit' then
  result = credit(counters)
elseif op == 'renew' then
  result = renew(counters)
elseif op == 'seed' then
  result = seed(counters)
elseif op == 'bar' then
  result = bar(counters)
elseif op == 'reserve' and counters[1].lease then
  result = repeated(counters)
else
  result = turned_away(counters) or reserve(counters, op == 'reserve')
end
for _, counter in ipairs(counters) do
  if counter.changed then
    save(counter)
  end
end
return result
