-- The long way: counters as it knows them, with each window's whole state. MODULES and NAMES, before this file, come from
-- the Lua files beside the Python algorithms.
local KEPT = 'requests:' -- windows that keep what an expired lease held
local BATCH = 64         -- leases ended in one call
local MANY = 256         -- open leases beyond which looking for ended ones is spread out, and unsettled ends remembered
local DAY = 86400000000
local WIDEST = 256 ^ 7 - 8 -- the largest double of seven bytes; a slot's amount is a sum, and may be above MAX

for at = CHECKS, stop, WIDTH do
  local _, algorithm, _, _, _, cost, second, third = unpacked('<i8i8i8i8i8i8i8i8', numbers, at)
  if cost < 0 or cost > MAX or second < 0 or second > MAX or third < 0 or third > MAX then
    return redis.error_reply('TOKENBUDGET amounts are whole numbers from 0 to 2^53 - 1')
  end
  if not MODULES[algorithm % FLAG] then
    return redis.error_reply('TOKENBUDGET unknown window algorithm')
  end
end

-- A module is made when it is first needed: most calls need one or two.
local ALGORITHMS = setmetatable({}, {__index = function(made, number)
  made[number] = MODULES[number]()
  return made[number]
end})

local function lines(text)
  local found, count = {}, 0
  for name in string.gmatch(text, '[^\n]+') do
    count = count + 1
    found[count] = name
  end
  return found
end

local function lease_of(packed)
  local ends, count = unpacked('<dB', packed)
  local values = {unpacked('<dBs' .. string.rep('d', 3 * count), packed)}
  local held = {ends = ends}
  for i, name in ipairs(lines(values[3])) do
    held[i] = {window = name, algorithm = values[3 * i + 1], slot = values[3 * i + 2], amount = values[3 * i + 3]}
  end
  return held
end

local function packed_lease(held)
  local values, names = {held.ends, #held, ''}, {}
  for i, one in ipairs(held) do
    values[3 * i + 1], values[3 * i + 2], values[3 * i + 3] = one.algorithm, one.slot, one.amount
    names[i] = one.window
  end
  values[3] = table.concat(names, '\n')
  return pack('<dBs' .. string.rep('d', #values - 3), unpack(values))
end

local function bar_of(packed)
  return {ends = unpacked('<d', packed), status = string.sub(packed, 9)}
end

local function load(key)
  local values = try('HMGET', key, 's', 'l' .. id, 'e' .. id, 'b')
  local is_other = values.err and string.find(values.err, 'WRONGTYPE', 1, true)
  if is_other or (values[1] and not is_ours(values[1])) then
    run('DEL', key) -- of a version that kept other fields, or what somebody else has written
    values = {}
  elseif values.err then
    run('HMGET', key, 's') -- which is that error
  end
  local counter = {
    key = key, seen = 0, due = 0, open = 0, ends = 0, names = {}, heads = {}, states = {}, fields = {},
    dirty = {}, ttl = 0, lease = values[2] and lease_of(values[2]), ended = values[3],
    bar = values[4] and bar_of(values[4]),
  }
  if values[1] then
    local n = {unpacked('<BBs' .. string.rep('d', 4 + byte(values[1], 2) * WINDOW), values[1])}
    counter.names = lines(n[3])
    counter.seen, counter.due, counter.open, counter.ends = unpack(n, 4, HEAD)
    for i, name in ipairs(counter.names) do
      local o = HEAD + (i - 1) * WINDOW
      counter.heads[name] = {n[o + 1], n[o + 2], n[o + 3], n[o + 4], n[o + 5]}
    end
  end
  counter.is_new = #counter.names == 0
  counter.moment = max(now, counter.seen)
  return counter
end

local function state_of(counter, window)
  local state, head = counter.states[window], counter.heads[window]
  if state then
    return state
  end
  local size = head and head[1] or 1
  state = {head and head[2] or 0}
  if size == 4 then
    state[2] = head[3]
  elseif size > 4 then
    local tail = run('HGET', counter.key, 't' .. window)
    local format = '<I7I' .. byte(tail)
    local at = 2
    for i = 2, size - 3, 2 do
      state[i], state[i + 1], at = unpacked(format, tail, at)
    end
  end
  if size > 1 then
    table.insert(state, head[4])
    table.insert(state, head[5])
  end
  counter.states[window] = state
  return state
end

local function packed_tail(state)
  local n, width = #state, 3
  for i = 3, n - 2, 2 do
    while width < 7 and state[i] >= 256 ^ width do
      width = width + 2
    end
  end
  local parts = {string.char(width)}
  for i = 2, n - 2, 2 do
    table.insert(parts, pack('<I7I' .. width, state[i], math.min(state[i + 1], WIDEST)))
  end
  return table.concat(parts)
end

local function store_state(counter, window)
  local state, head = counter.states[window], counter.heads[window]
  local n = #state
  if n > 4 then
    counter.fields['t' .. window] = packed_tail(state)
  elseif head and head[1] > 4 then
    counter.fields['t' .. window] = false
  end
  if not head then
    table.insert(counter.names, window)
  end
  counter.heads[window] = n == 1 and {1, state[1], 0, 0, 0} or {n, state[1], state[2], state[n - 1], state[n]}
end

local function is_kept(window)
  return string.sub(window, 1, #KEPT) == KEPT
end

-- Everything that was held goes back, but not the requests: they were made.
local function give_back(counter, held, with_requests)
  for _, one in ipairs(held) do
    if with_requests or not is_kept(one.window) then
      ALGORITHMS[one.algorithm].give_back(state_of(counter, one.window), one.slot, one.amount)
      counter.dirty[one.window] = true
    end
  end
end

local function finish(counter, name, ends, remembered)
  counter.fields['l' .. name] = false
  counter.open = counter.open - 1
  if name == id then
    counter.lease, counter.ended = nil, ends
  end
  if remembered < MANY and not (name == id and op == SETTLE) then
    counter.fields['e' .. name] = ends
  end
end

local function sweep(counter)
  local all = run('HGETALL', counter.key)
  local ended, remembered, due = {}, 0, 0
  for i = 1, #all, 2 do
    local kind, name = string.sub(all[i], 1, 1), string.sub(all[i], 2)
    if kind == 'l' then
      local ends = unpacked('<d', all[i + 1])
      if ends <= counter.moment and #ended < BATCH then
        table.insert(ended, {name, all[i + 1], ends})
      elseif due == 0 or ends < due then
        due = ends
      end
    elseif kind == 'e' then
      if tonumber(all[i + 1]) + DAY < counter.moment then
        counter.fields[all[i]] = false
      else
        remembered = remembered + 1
      end
    end
  end
  for _, lost in ipairs(ended) do
    give_back(counter, lease_of(lost[2]))
    finish(counter, lost[1], string.format('%.0f', lost[3]), remembered)
    remembered = remembered + 1
  end
  if due > 0 and counter.open > MANY then
    due = max(due, counter.moment + counter.open * 100)
  end
  counter.due = due
  counter.changed = true
  if #ended > 0 then
    counter.seen = counter.moment
  end
end

local function save(counter)
  for window in pairs(counter.dirty) do
    store_state(counter, window)
  end
  -- The end of the key stands in s, so it is known before s is written; a key that is not there yet cannot be given one.
  if counter.ends <= counter.moment + counter.ttl then
    counter.ends = counter.moment + counter.ttl + SLACK
  end
  local numbers = {VERSION, #counter.names, table.concat(counter.names, '\n')}
  for _, number in ipairs({counter.seen, counter.due, counter.open, counter.ends}) do
    table.insert(numbers, number)
  end
  for _, name in ipairs(counter.names) do
    for _, number in ipairs(counter.heads[name]) do
      table.insert(numbers, number)
    end
  end
  local writes, drops = {'s', pack('<BBs' .. string.rep('d', #numbers - 3), unpack(numbers))}, {}
  for field, value in pairs(counter.fields) do
    table.insert(value and writes or drops, field)
    if value then
      table.insert(writes, value)
    end
  end
  run('HSET', counter.key, unpack(writes)) -- first: Redis out of memory refuses this one
  if #drops > 0 then
    run('HDEL', counter.key, unpack(drops))
  end
  run('PEXPIRE', counter.key, string.format('%.0f', math.ceil((counter.ends - counter.moment) / 1000)))
end
