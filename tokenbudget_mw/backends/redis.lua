-- One call of a backend: reserve, peek, settle, abandon, credit, renew, seed or bar; all counters of it, atomically, in
-- one round trip. This file is the quick way, which answers nearly every reservation and settlement; whatever it does not
-- answer, it has not touched, and goes the long way, in the files behind it.
--
-- KEYS: the counters, one hash each. ARGV: the call's numbers (see redis_script.py), its id, and the names of each
-- counter's windows in the order of the checks, a line each.
-- Fields of a hash:  s         version, number of windows (bytes); newest moment seen, moment the next lease ends (0: none),
--                              open leases, moment the key may go; five numbers a window; the windows' names
--                    t<window> the tail: what a long state has between its head's numbers, a width and packed pairs
--                    l<id>     number of holds (byte); end; algorithm, slot, amount of each; their windows' names
--                    e<id>     end of a lease that was never settled
--                    b         end, status: whose asks this counter stands for is refused until then
-- A window's five numbers are the length of its state, as its algorithm keeps it, and the first two and last two numbers of
-- that; so the usual call reads and writes little, however much a window holds. Moments are whole microseconds; nothing
-- here may be above 2^53 - 1, because Lua counts in doubles.
local MAX = 9007199254740991
local SLACK = 60000000   -- a key lives so much longer than it must, and its end is moved that rarely
local MAX_OPEN = 10000   -- open leases of a counter
local VERSION = 1        -- of the fields; no older one begins so
local HEAD = 4           -- numbers of s before the windows
local WINDOW = 5         -- numbers a window
local CHECKS = 7         -- where the checks begin in the call
local WIDTH = 10         -- numbers a check
local RESERVE, PEEK, SETTLE, ABANDON, CREDIT, RENEW, SEED, BAR = 1, 2, 3, 4, 5, 6, 7, 8

local run, pack, unpacked, max = redis.call, struct.pack, struct.unpack, math.max
local call, id = {unpacked('<' .. string.rep('d', #ARGV[1] / 8), ARGV[1])}, ARGV[2]
local op, now, lease = call[1], call[2], call[3]
-- Which key is the holder's (0: none); how many keys the checks are about; where the checks end.
local holder, charged, stop = call[4], call[5], CHECKS - 1 + call[6] * WIDTH

local TAKE, MOVE, RELEASES = {}, {}, {}
local entries, fits -- of a tail

@QUICK@
for at = CHECKS, stop, WIDTH do
  local one, two, three = call[at + 5], call[at + 6], call[at + 7]
  -- A NaN fails every comparison.
  if not (one >= 0 and one <= MAX and one % 1 == 0 and two >= 0 and two <= MAX and two % 1 == 0
      and three >= 0 and three <= MAX and three % 1 == 0) then
    return redis.error_reply('TOKENBUDGET amounts are whole numbers from 0 to 2^53 - 1')
  end
  if not TAKE[call[at + 1]] then
    return redis.error_reply('TOKENBUDGET unknown window algorithm')
  end
end

if now < 0 and op ~= SETTLE then
  local time = run('TIME')
  now = time[1] * 1000000 + time[2]
end

local function line(lines, number)
  for text in string.gmatch(lines, '[^\n]+') do
    number = number - 1
    if number == 0 then
      return text
    end
  end
end

local function name_at(counter, o)
  return line(counter.names, (o - HEAD) / WINDOW + 1)
end

-- The pairs between a window's first number and its last two, as they are packed; the width of one, and its format. Most
-- amounts are small.
function entries(counter, o, size)
  local tail = counter.tails[o] or size > 3 and run('HGET', counter.key, 't' .. name_at(counter, o)) or '\4'
  if string.byte(tail) == 4 then
    return tail, 11, '<I7I4'
  end
  return tail, 14, '<I7I7'
end

function fits(width, amount)
  return width == 14 or amount < 4294967296
end

-- A counter as the quick way knows it; nil where it must be the long one.
local function read(key, s, names)
  local version, width = string.byte(s, 1, 2)
  if version ~= VERSION then
    return nil
  end
  local size = HEAD + width * WINDOW
  local found = string.sub(s, 3 + size * 8)
  local counter = {
    key = key, width = width, size = size, names = found, tails = {}, next = HEAD,
    numbers = {unpacked('<' .. string.rep('d', size), s, 3)},
  }
  if found ~= names then
    local places, at = {}, HEAD
    for name in string.gmatch(found, '[^\n]+') do
      places[name], at = at, at + WINDOW
    end
    counter.places, counter.next = {}, 1
    for name in string.gmatch(names, '[^\n]+') do
      if not places[name] then
        return nil
      end
      table.insert(counter.places, places[name])
    end
  end
  return counter
end

-- Where the window of the counter's next check stands among its numbers.
local function advance(counter)
  local at = counter.next
  if counter.places then
    counter.next = at + 1
    return counter.places[at]
  end
  counter.next = at + WINDOW
  return at
end

local function write(counter, ...)
  local size, values = counter.size, {...}
  for o, tail in pairs(counter.tails) do
    table.insert(values, 't' .. name_at(counter, o))
    table.insert(values, tail)
  end
  local packed = pack('<BB' .. string.rep('d', size), VERSION, counter.width, unpack(counter.numbers, 1, size))
  run('HSET', counter.key, 's', packed .. counter.names, unpack(values))
end

-- The way of nearly every reservation: known windows, in which everything fits.
local function reserve_quickly()
  if holder > charged and run('HEXISTS', KEYS[holder], 'b') == 1 then
    return nil
  end
  local counters, reply = {}, {2}
  for i = 1, charged do
    local values = run('HMGET', KEYS[i], 's', 'l' .. id, 'b')
    if not values[1] or values[2] or (values[3] and i == holder) then
      return nil
    end
    local counter = read(KEYS[i], values[1], ARGV[2 + i])
    if not counter then
      return nil
    end
    local numbers = counter.numbers
    local moment = max(now, numbers[1])
    if (numbers[2] > 0 and moment >= numbers[2]) or (lease > 0 and numbers[3] >= MAX_OPEN) then
      return nil
    end
    counter.moment, counter.ttl, counter.holds = moment, 0, {moment + lease}
    counters[i] = counter
  end
  for at = CHECKS, stop, WIDTH do
    local counter, cost, need, cap = counters[call[at]], call[at + 5], call[at + 6], call[at + 7]
    if call[at + 8] == 0 then
      return nil
    end
    local slot, used, empty_at, lifetime =
      TAKE[call[at + 1]](counter.numbers, advance(counter), call[at + 2], call[at + 3], call[at + 4], cost,
        need == 0 and MAX or cap - need, counter.moment, counter)
    if not slot then
      return nil
    end
    counter.ttl = max(counter.ttl, lifetime)
    local holds, n = counter.holds, #counter.holds
    holds[n + 1], holds[n + 2], holds[n + 3] = call[at + 1], slot, cost
    n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3] = max(0, cap - used - cost), empty_at - now, slot
  end
  for i = 1, charged do
    local counter, key = counters[i], KEYS[i]
    local numbers, moment, ttl, holds = counter.numbers, counter.moment, counter.ttl + lease, counter.holds
    numbers[1] = moment
    if numbers[4] < moment + ttl then
      numbers[4] = moment + ttl + SLACK
      run('PEXPIRE', key, string.format('%.0f', math.ceil((numbers[4] - moment) / 1000)))
    end
    if lease > 0 then
      local n = #holds
      numbers[2] = numbers[2] == 0 and holds[1] or math.min(numbers[2], holds[1])
      numbers[3] = numbers[3] + 1
      write(counter, 'l' .. id, pack('<B' .. string.rep('d', n), (n - 1) / 3, unpack(holds)) .. ARGV[2 + i])
    else
      write(counter)
    end
  end
  return pack('<' .. string.rep('i8', #reply), unpack(reply))
end

-- The way of nearly every settlement: a lease that is open, and no window that it would change the shape of.
local function settle_quickly()
  local counters, moment = {}, now
  for i = 1, #KEYS do
    local values = run('HMGET', KEYS[i], 's', 'l' .. id)
    local counter = values[1] and values[2] and read(KEYS[i], values[1], ARGV[2 + i])
    if not counter then
      return nil
    end
    counters[i] = counter
  end
  for at = CHECKS, stop, WIDTH do
    local algorithm, cost = call[at + 1], call[at + 5]
    local counter, more = counters[call[at]], RELEASES[algorithm] and -cost or call[at + 7] - cost
    local o = advance(counter)
    if more > 0 and moment < 0 then
      local time = run('TIME')
      moment = time[1] * 1000000 + time[2]
    end
    if more ~= 0 and not MOVE[algorithm](counter.numbers, o, call[at + 2], call[at + 3], call[at + 4], call[at + 6], more,
        max(moment, counter.numbers[1]), counter) then
      return nil
    end
  end
  for i = 1, #KEYS do
    local numbers = counters[i].numbers
    local seen = max(now, numbers[1])
    if numbers[2] > 0 and seen >= numbers[2] then
      return nil
    end
    numbers[1], numbers[3] = seen, numbers[3] - 1
  end
  for i = 1, #KEYS do
    write(counters[i]) -- first: Redis out of memory refuses this one
    run('HDEL', KEYS[i], 'l' .. id)
  end
  return 1
end

local reply
if op == RESERVE then
  reply = reserve_quickly()
elseif op == SETTLE then
  reply = settle_quickly()
end
if reply then
  return reply
end
