-- The quick way of calendar.lua to settle: in the period that is counted.
local is_counted = n[o + 1] > 1 and n[o + 3] == slot
is_moved = more <= 0 or (is_counted and slot >= first_param and moment < second_param)
if is_moved and is_counted then
  n[o + 2] = max(0, n[o + 2] + more)
end
