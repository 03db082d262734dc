-- The quick way of concurrent.lua to settle.
n[o + 2] = max(0, n[o + 2] - cost)
