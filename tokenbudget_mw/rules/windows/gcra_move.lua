-- The quick way of gcra.lua to settle: downwards.
is_moved = more <= 0
if is_moved and n[o + 1] > 1 and slot >= n[o + 3] then
  n[o + 2] = max(0, n[o + 2] + more)
end
