-- The quick way of calendar.lua to take: in the period that is counted already.
used, lifetime = n[o + 2], third_param > moment and third_param - moment or 0
if n[o + 1] > 1 and n[o + 3] == first_param and moment < second_param and used <= most then
  n[o + 2] = used + cost
  slot, empty_at = first_param, used + cost > 0 and max(moment, n[o + 5]) or moment
end
