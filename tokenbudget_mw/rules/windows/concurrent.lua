-- Calls in flight; the twin of concurrent.py, which says what they are.
local RETRY_US = 1000000

local concurrent = {releases = true}

function concurrent.peek(state)
  return 0, state[1]
end

function concurrent.charge(state, _, _, amount)
  state[1] = state[1] + amount
end

function concurrent.give_back(state, _, amount)
  state[1] = math.max(0, state[1] - amount)
end

function concurrent.credit(state, amount)
  state[1] = math.max(0, state[1] - amount)
end

function concurrent.frees_at(_, _, excess, now)
  return excess > 0 and now + RETRY_US or now
end

function concurrent.empty_at(state, _, now)
  return state[1] > 0 and now + RETRY_US or now
end

function concurrent.lifetime()
  return 0
end

return concurrent
