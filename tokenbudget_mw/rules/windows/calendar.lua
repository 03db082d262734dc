-- Periods of the calendar; the twin of calendar.py, which says what they are.
local function period(state, params, now)
  local first, last = params[1], params[2]
  if now >= last then
    first, last = last, params[3]
  end
  if state[2] and (state[2] >= first or now < math.min(first, state[3])) then
    return state[2], state[3]
  end
  return first, last
end

local calendar = {releases = false}

function calendar.peek(state, params, now)
  local first = period(state, params, now)
  return first, state[2] == first and state[1] or 0
end

function calendar.charge(state, params, slot, amount, now)
  local first, last = period(state, params, now)
  if state[2] ~= first then
    state[1], state[2], state[3] = 0, first, last
  end
  if slot == first then
    state[1] = state[1] + amount
  end
end

function calendar.give_back(state, slot, amount)
  if state[2] == slot then
    state[1] = state[1] - math.min(amount, state[1])
  end
end

function calendar.credit(state, amount)
  state[1] = math.max(0, state[1] - amount)
end

function calendar.frees_at(state, params, excess, now)
  if excess <= 0 then
    return now
  end
  local _, last = period(state, params, now)
  return math.max(now, last)
end

function calendar.empty_at(state, params, now)
  local _, used = calendar.peek(state, params, now)
  return calendar.frees_at(state, params, used, now)
end

function calendar.lifetime(params, now)
  return math.max(params[3] - now, 0)
end

return calendar
