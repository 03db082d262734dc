-- The generic cell rate algorithm; the twin of gcra.py, which says what it is.
local FAR = 4000000000000000

local function left(state, now)
  if #state == 1 then
    return 0
  end
  return math.max(0, state[1] - math.floor((now - state[2]) * (state[4] / state[3])))
end

local function leaked_at(state, amount)
  local rate = state[4] / state[3]
  local moment = math.ceil(amount / rate)
  if moment >= FAR then
    return state[2] + FAR
  end
  while math.floor(moment * rate) < amount do
    moment = moment + 1
  end
  while moment > 0 and math.floor((moment - 1) * rate) >= amount do
    moment = moment - 1
  end
  return state[2] + moment
end

local gcra = {releases = false}

function gcra.peek(state, _, now)
  return now, left(state, now)
end

function gcra.charge(state, params, slot, amount, now)
  local rest = left(state, now)
  if rest == 0 or state[3] ~= params[1] or state[4] ~= params[2] then
    state[1], state[2], state[3], state[4] = rest, now, params[1], params[2]
  end
  if now - slot < params[1] then
    state[1] = state[1] + amount
  end
end

function gcra.give_back(state, slot, amount)
  if #state > 1 and slot >= state[2] then
    state[1] = state[1] - math.min(amount, state[1])
  end
end

function gcra.credit(state, amount)
  state[1] = math.max(0, state[1] - amount)
end

function gcra.frees_at(state, _, excess, now)
  if excess <= 0 then
    return now
  end
  return math.max(now, leaked_at(state, state[1] - left(state, now) + excess))
end

function gcra.empty_at(state, _, now)
  return left(state, now) > 0 and leaked_at(state, state[1]) or now
end

-- A bucket in debt takes longer than a full one.
function gcra.lifetime(params, now, state)
  return math.max(params[1], state and gcra.empty_at(state, params, now) - now or 0)
end

return gcra
