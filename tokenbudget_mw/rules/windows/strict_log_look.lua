-- The quick way of strict_log.lua to answer without charging: what counts, when all of it has left, when enough has.
local length, size, last = first_param * second_param, n[o + 1], n[o + 4]
local gone = moment - length
used = 0
if size > 1 and last > gone then
  used, empty_at = n[o + 2], last + length
  local tail = size > 3 and run('HGET', KEYS[key], 't' .. name_at(n[3], o)) or '\3'
  local width, at = byte(tail), 2
  local format, first, amount = '<I7I' .. width, n[o + 3], nil
  while first <= gone do -- the last entry counts, so this ends
    first, amount = unpacked(format, tail, at)
    used, at = used - amount, at + 7 + width
    first = at < #tail and unpacked(format, tail, at) or last
  end
  local excess = used + need - cap
  if need > 0 and excess > 0 then
    frees_at = empty_at
    while at < #tail do
      first, amount, at = unpacked(format, tail, at)
      excess = excess - amount
      if excess <= 0 then
        frees_at = first + length
        break
      end
    end
  end
end
