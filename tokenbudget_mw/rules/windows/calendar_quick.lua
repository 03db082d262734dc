-- The quick way of calendar.lua, on numbers instead of a list.
local function take(n, o, first, last, next_last, cost, most, now)
  local used = n[o + 2]
  if n[o + 1] == 1 or n[o + 3] ~= first or now >= last or used > most then
    return nil
  end
  n[o + 2] = used + cost
  return first, used, used + cost > 0 and n[o + 5] or now, max(next_last - now, 0)
end

local function move(n, o, first, last, _, slot, more, now)
  local is_counted = n[o + 1] > 1 and n[o + 3] == slot
  if more < 0 then
    if is_counted then
      n[o + 2] = max(0, n[o + 2] + more)
    end
    return true
  end
  if not is_counted or slot < first or now >= last then
    return false
  end
  n[o + 2] = n[o + 2] + more
  return true
end
