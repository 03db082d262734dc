-- The quick way of strict_log.lua, on numbers and packed entries instead of a list.
local function slot_of(slot_us, now)
  return (math.floor(now / slot_us) + 1) * slot_us
end

local function take(n, o, slot_us, slots, _, cost, most, now, counter)
  local length = slot_us * slots
  local size, used, first, last = n[o + 1], n[o + 2], n[o + 3], n[o + 4]
  local gone, lifetime = now - length, length + slot_us
  if size == 1 or last <= gone then
    if most < 0 or cost == 0 then
      return nil
    end
    local slot = slot_of(slot_us, now)
    n[o + 1], n[o + 2], n[o + 3], n[o + 4], n[o + 5] = 3, cost, slot, slot, cost
    if size > 3 then
      counter.tails[o] = ''
    end
    return slot, 0, slot + length, lifetime
  end
  if first > gone and now < last and now >= last - slot_us then
    if used > most then
      return nil
    end
    n[o + 2], n[o + 5] = used + cost, n[o + 5] + cost
    return last, used, last + length, lifetime
  end
  if now < last - slot_us then
    return nil
  end
  local tail, step, format = entries(counter, o, size)
  local at, stop = 2, #tail
  while first <= gone do -- never the last entry: that one counts
    local _, amount = unpacked(format, tail, at)
    used, size, at = used - amount, size - 2, at + step
    first = at < stop and unpacked(format, tail, at) or last
  end
  if used > most then
    return nil
  end
  if at > 2 then
    tail = string.sub(tail, 1, 1) .. string.sub(tail, at)
  end
  if now < last then
    n[o + 5] = n[o + 5] + cost
  else
    if cost == 0 or not fits(step, n[o + 5]) then
      return nil
    end
    tail = tail .. pack(format, last, n[o + 5])
    last, size = slot_of(slot_us, now), size + 2
    n[o + 4], n[o + 5] = last, cost
  end
  n[o + 1], n[o + 2], n[o + 3] = size, used + cost, first
  counter.tails[o] = tail
  return last, used, last + length, lifetime
end

local function move(n, o, slot_us, slots, _, slot, more, now, counter)
  local size = n[o + 1]
  if more > 0 and slot <= now - slot_us * slots then
    return true
  end
  if size == 1 or slot < n[o + 3] or slot > n[o + 4] then
    return more < 0
  end
  if slot == n[o + 4] then
    if n[o + 5] + more <= 0 then
      return false
    end
    n[o + 2], n[o + 5] = n[o + 2] + more, n[o + 5] + more
    return true
  end
  local tail, step, format = entries(counter, o, size)
  local low, high = 0, (#tail - 1) / step - 1
  while low <= high do
    local middle = math.floor((low + high) / 2)
    local at = 2 + middle * step
    local ends, amount = unpacked(format, tail, at)
    if ends == slot then
      if amount + more <= 0 or not fits(step, amount + more) then
        return false
      end
      n[o + 2] = n[o + 2] + more
      counter.tails[o] =
        string.sub(tail, 1, at - 1) .. pack(format, slot, amount + more) .. string.sub(tail, at + step)
      return true
    elseif ends < slot then
      low = middle + 1
    else
      high = middle - 1
    end
  end
  return more < 0
end
