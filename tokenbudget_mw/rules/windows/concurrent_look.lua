-- The quick way of concurrent.lua to answer without charging.
used, frees_at = n[o + 2], moment + 1000000
if used > 0 then
  empty_at = frees_at
end
