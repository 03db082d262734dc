-- The quick way of concurrent.lua to take.
used, lifetime = n[o + 2], 0
if used <= most then
  n[o + 2] = used + cost
  slot, empty_at = 0, used + cost > 0 and moment + 1000000 or moment
end
