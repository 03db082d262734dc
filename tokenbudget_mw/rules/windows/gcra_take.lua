-- The quick way of gcra.lua to take.
local level, since, rate = n[o + 2], n[o + 3], second_param / first_param
used, lifetime = 0, first_param
if n[o + 1] > 1 then
  used = max(0, level - math.floor((moment - since) * (n[o + 5] / n[o + 4])))
end
if used <= most then
  if used == 0 or n[o + 4] ~= first_param or n[o + 5] ~= second_param then -- the bucket begins anew
    level, since = used, moment
    n[o + 1], n[o + 3], n[o + 4], n[o + 5] = 4, since, first_param, second_param
  end
  level = level + cost
  n[o + 2] = level
  local leaked, far = math.ceil(level / rate), 4000000000000000
  while leaked < far and math.floor(leaked * rate) < level do
    leaked = leaked + 1
  end
  while leaked > 0 and leaked < far and math.floor((leaked - 1) * rate) >= level do
    leaked = leaked - 1
  end
  leaked = leaked < far and leaked or far
  slot, empty_at = moment, since + leaked
  if lifetime < empty_at - moment then
    lifetime = empty_at - moment -- a bucket in debt takes longer than a full one
  end
end
