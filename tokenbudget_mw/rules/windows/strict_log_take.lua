-- The quick way of strict_log.lua to take: on the window's five numbers, and its packed entries where it must.
repeat
  local length, size, first, last = first_param * second_param, n[o + 1], n[o + 3], n[o + 4]
  local gone = moment - length
  lifetime, used = length + first_param, n[o + 2]
  if first > gone and moment < last and moment >= last - first_param and size > 1 then
    if used <= most then -- in the slot that is the newest already
      n[o + 2], n[o + 5] = used + cost, n[o + 5] + cost
      slot = last
    end
    break
  end
  local new = (math.floor(moment / first_param) + 1) * first_param
  if size > 1 and new < last then
    break -- of another slot length
  end
  if size == 1 or last <= gone then -- the first of all that counts
    used = 0
    if most >= 0 and cost == 0 then
      slot, empty_at = new, moment
    elseif most >= 0 then
      n[o + 1], n[o + 2], n[o + 3], n[o + 4], n[o + 5] = 3, cost, new, new, cost
      slot = new
      if size > 3 then
        tails = tails or {}
        tails[key] = tails[key] or {}
        tails[key][o] = ''
      end
    end
    break
  end
  local tail = tails and tails[key] and tails[key][o] or size > 3 and run('HGET', KEYS[key], 't' .. name_at(n[3], o)) or '\3'
  local width, at = byte(tail), 2
  local format = '<I7I' .. width
  while first <= gone do -- the last entry counts, so this ends
    local _, amount = unpacked(format, tail, at)
    used, size, at = used - amount, size - 2, at + 7 + width
    first = at < #tail and unpacked(format, tail, at) or last
  end
  if used > most then
    break
  end
  if cost == 0 then
    slot, empty_at = new, last + length
    break
  end
  if at > 2 then
    tail = sub(tail, 1, 1) .. sub(tail, at)
  end
  if new == last then
    n[o + 5] = n[o + 5] + cost
  else
    if n[o + 5] >= 256 ^ width then
      break -- all entries must become wider
    end
    tail = tail .. pack(format, last, n[o + 5])
    size, n[o + 4], n[o + 5] = size + 2, new, cost
  end
  n[o + 1], n[o + 2], n[o + 3] = size, used + cost, first
  tails = tails or {}
  tails[key] = tails[key] or {}
  tails[key][o] = tail
  slot = new
until true
empty_at = empty_at or slot and slot + first_param * second_param
