-- The quick way of concurrent.lua, on numbers instead of a list.
local RETRY_US = 1000000

local function take(n, o, _, _, _, cost, most, now)
  local used = n[o + 2]
  if used > most then
    return nil
  end
  n[o + 2] = used + cost
  return 0, used, used + cost > 0 and now + RETRY_US or now, 0
end

local function move(n, o, _, _, _, _, more)
  n[o + 2] = max(0, n[o + 2] + more)
  return true
end
