-- The quick way of calendar.lua to answer without charging.
local first, last = first_param, second_param
if moment >= last then
  first, last = last, third_param
end
used = 0
if n[o + 1] > 1 and (n[o + 3] >= first or moment < math.min(first, n[o + 5])) then
  used, last = n[o + 2], n[o + 5]
end
frees_at = max(moment, last)
if used > 0 then
  empty_at = frees_at
end
