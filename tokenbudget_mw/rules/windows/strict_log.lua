-- The strict coalesced sliding log; the twin of strict_log.py, which says what it is.
local function place(state, slot)
  local i = #state + 1
  while i > 2 and state[i - 2] >= slot do
    i = i - 2
  end
  return i
end

local function add(state, slot, amount)
  state[1] = state[1] + amount
  local i = place(state, slot)
  if state[i] ~= slot then
    table.insert(state, i, amount)
    table.insert(state, i, slot)
  elseif state[i + 1] + amount ~= 0 then
    state[i + 1] = state[i + 1] + amount
  else
    table.remove(state, i)
    table.remove(state, i)
  end
end

local function forget(state, gone)
  local dead = 0
  while dead + 2 <= #state and state[dead + 2] <= gone do
    state[1] = state[1] - state[dead + 3]
    dead = dead + 2
  end
  if dead > 0 then
    local n = #state
    for i = 2, n do
      state[i] = state[i + dead]
    end
  end
end

local log = {releases = false}

function log.peek(state, params, now)
  local gone = now - params[1] * params[2]
  local used, i = state[1], 2
  while state[i] and state[i] <= gone do
    used = used - state[i + 1]
    i = i + 2
  end
  return (math.floor(now / params[1]) + 1) * params[1], used
end

function log.charge(state, params, slot, amount, now)
  local gone = now - params[1] * params[2]
  forget(state, gone)
  if amount > 0 and slot > gone then
    add(state, slot, amount)
  end
end

function log.give_back(state, slot, amount)
  local i = place(state, slot)
  if state[i] == slot then
    add(state, slot, -math.min(amount, state[i + 1]))
  end
end

function log.credit(state, amount)
  while amount > 0 and #state > 1 do
    local part = math.min(amount, state[#state])
    add(state, state[#state - 1], -part)
    amount = amount - part
  end
end

function log.frees_at(state, params, excess, now)
  local length = params[1] * params[2]
  local moment = now
  for i = 2, #state, 2 do
    if excess <= 0 then
      break
    end
    if state[i] > now - length then
      excess = excess - state[i + 1]
      moment = state[i] + length
    end
  end
  return moment
end

function log.empty_at(state, params, now)
  if #state == 1 then
    return now
  end
  return math.max(now, state[#state - 1] + params[1] * params[2])
end

function log.lifetime(params)
  return params[1] * (params[2] + 1)
end

return log
