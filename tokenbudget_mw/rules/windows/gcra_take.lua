-- The quick way of gcra.lua to take: from a bucket that is not empty and leaks as it did.
local level, since, rate = n[o + 2], n[o + 3], second_param / first_param
used, lifetime = max(0, level - math.floor((moment - since) * rate)), first_param
if n[o + 1] > 1 and n[o + 4] == first_param and n[o + 5] == second_param and used > 0 and used <= most then
  level = level + cost
  local leaked = math.ceil(level / rate)
  while math.floor(leaked * rate) < level do
    leaked = leaked + 1
  end
  while leaked > 0 and math.floor((leaked - 1) * rate) >= level do
    leaked = leaked - 1
  end
  n[o + 2] = level
  slot, empty_at = moment, since + leaked
end
