-- The quick way of gcra.lua to answer without charging: when the bucket is empty, when there is room enough in it.
local level, since, rate = n[o + 2], n[o + 3], n[o + 1] > 1 and n[o + 5] / n[o + 4]
used = rate and max(0, level - math.floor((moment - since) * rate)) or 0
if used > 0 then
  for _, amount in ipairs({level, level - used + max(0, used + need - cap)}) do
    local leaked, far = math.ceil(amount / rate), 4000000000000000
    while leaked < far and math.floor(leaked * rate) < amount do
      leaked = leaked + 1
    end
    while leaked > 0 and leaked < far and math.floor((leaked - 1) * rate) >= amount do
      leaked = leaked - 1
    end
    leaked = leaked < far and leaked or far
    empty_at, frees_at = frees_at or since + leaked, since + leaked
  end
  frees_at = max(moment, frees_at)
end
