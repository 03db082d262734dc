-- The quick way of strict_log.lua to settle: on the window's five numbers, or on one packed entry in its place.
repeat
  local size, first, last = n[o + 1], n[o + 3], n[o + 4]
  if more == 0 or (more > 0 and slot <= moment - first_param * second_param) then
    break -- nothing to do, or it has left the window
  end
  if size == 1 or slot < first or slot > last then
    is_moved = more < 0 -- forgotten
    break
  end
  if slot == last then
    is_moved = n[o + 5] + more > 0
    n[o + 2], n[o + 5] = n[o + 2] + more, n[o + 5] + more
    break
  end
  local tail = tails and tails[key] and tails[key][o] or run('HGET', KEYS[key], 't' .. name_at(n[3], o))
  local width = byte(tail)
  local format, step = '<I7I' .. width, 7 + width
  local low, high = 0, (#tail - 1) / step - 1
  is_moved = more < 0
  while low <= high do
    local middle = math.floor((low + high) / 2)
    local at = 2 + middle * step
    local found, amount = unpacked(format, tail, at)
    if found == slot then
      amount = amount + more
      is_moved = amount > 0 and amount < 256 ^ width
      if is_moved then
        n[o + 2] = n[o + 2] + more
        tails = tails or {}
        tails[key] = tails[key] or {}
        tails[key][o] = sub(tail, 1, at - 1) .. pack(format, slot, amount) .. sub(tail, at + step)
      end
      break
    elseif found < slot then
      low = middle + 1
    else
      high = middle - 1
    end
  end
until true
