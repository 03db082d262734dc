-- The quick way of gcra.lua, on numbers instead of a list.
local function take(n, o, length, cap, _, cost, most, now)
  local level, since, rate = n[o + 2], n[o + 3], cap / length
  if n[o + 1] == 1 or n[o + 4] ~= length or n[o + 5] ~= cap then
    return nil
  end
  local used = max(0, level - math.floor((now - since) * rate))
  if used == 0 or used > most then
    return nil
  end
  level = level + cost
  local moment = math.ceil(level / rate)
  while math.floor(moment * rate) < level do
    moment = moment + 1
  end
  while moment > 0 and math.floor((moment - 1) * rate) >= level do
    moment = moment - 1
  end
  n[o + 2] = level
  return now, used, since + moment, length
end

local function move(n, o, _, _, _, slot, more)
  if more < 0 and n[o + 1] > 1 and slot >= n[o + 3] then
    n[o + 2] = max(0, n[o + 2] + more)
  end
  return more < 0
end
