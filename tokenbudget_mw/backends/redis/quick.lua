-- One call of a backend: reserve, peek, settle, abandon, credit, renew, seed or bar; all counters of it, atomically, in
-- one round trip. This file is the quick way, which answers nearly every reservation and settlement: code in a row, because
-- each function that a script defines is made anew by each call. What it does not answer, it has not touched; that goes the
-- long way, through the files behind it.
--
-- KEYS: the counters, one hash each. ARGV: the call's numbers (see script.py), its id, and the names of each
-- counter's windows in the order of the checks, a line each.
-- Fields of a hash:  s         version, number of windows (bytes); the windows' names, a line each, and a zero; newest
--                              moment seen, moment the next lease ends (0: none), open leases, moment the key may go; five
--                              numbers a window
--                    t<window> the tail, what a long state has between the first number and the last two: the width of
--                              its amounts, then pairs of seven bytes and so many
--                    l<id>     end; number of holds (byte); their windows' names; algorithm, slot, amount of each
--                    e<id>     end of a lease that was never settled
--                    a<window> moment at which it was started at what the books say
--                    b         end, status: whose asks this counter stands for is refused until then
-- A window's five numbers are the length of its state, as its algorithm keeps it, and the first two and last two numbers of
-- that; so the usual call reads and writes little, however much a window holds. Moments are whole microseconds; nothing
-- here may be above 2^53 - 1, because Lua counts in doubles.
local MAX = 9007199254740991
local SLACK = 60000000   -- a key lives so much longer than it must, and its end is moved that rarely
local MAX_OPEN = 10000   -- open leases of a counter
local VERSION = 1        -- of the fields; none of an older one begins so
local HEAD = 7           -- values of s before the windows
local WINDOW = 5         -- numbers a window
local CHECKS = 57        -- byte at which the checks begin in the call
local WIDTH = 64         -- bytes a check
local FLAG = 16          -- an algorithm's number is below; above stands whether it is a shadow, whether it is booked
local RESERVE, PEEK, SETTLE, ABANDON, CREDIT, RENEW, SEED, BAR = 1, 2, 3, 4, 5, 6, 7, 8
-- Formats are cut off from these: 40 windows, 85 holds.
local STATE = '<BBsdddd@200d@'
local LEASE = '<dBs@255d@'
local REPLY = '<@121i8@'

local KEYS, ARGV, run, try = KEYS, ARGV, redis.call, redis.pcall
local pack, unpacked, max, byte, sub = struct.pack, struct.unpack, math.max, string.byte, string.sub
local numbers, id = ARGV[1], ARGV[2]
-- The lease in microseconds; which key is the holder's (0: none); how many keys the checks are about; how many checks;
-- whether each of them is enforced.
local op, now, lease, holder, charged, count, is_plain = unpacked('<i8i8i8i8i8i8i8', numbers)
local stop = CHECKS + (count - 1) * WIDTH

-- Whether *s* is of this version, and as long as it says.
local function is_ours(s)
  local version, count = byte(s, 1, 2)
  local names = #s - 8 * (4 + WINDOW * (count or 0))
  return version == VERSION and names > 2 and byte(s, names) == 0
end

-- The name of the window whose numbers stand behind *o*.
local function name_at(names, o)
  for name in string.gmatch(names, '[^\n]+') do
    o = o - WINDOW
    if o < HEAD then
      return name
    end
  end
end

-- Where the windows that are *wanted* stand; nil where one is missing.
local function places_of(names, wanted)
  local found, at, places = {}, HEAD, {}
  for name in string.gmatch(names, '[^\n]+') do
    found[name], at = at, at + WINDOW
  end
  for name in string.gmatch(wanted, '[^\n]+') do
    if not found[name] then
      return nil
    end
    table.insert(places, found[name])
  end
  return places
end

if now < 0 and op ~= SETTLE then
  local time = run('TIME')
  now = time[1] * 1000000 + time[2]
end

if is_plain == 1 and count <= 40 and (op == RESERVE or (op == SETTLE and lease == 0)) then
  local is_reserved, lease_field = op == RESERVE, 'l' .. id
  local is_quick = not (is_reserved and holder > charged and try('HEXISTS', KEYS[holder], 'b') ~= 0)
  local counters, tails, is_refused = {}, nil, false
  for key = 1, is_reserved and charged or #KEYS do
    local values = try('HMGET', KEYS[key], 's', lease_field, 'b')
    local s = values[1]
    if not s or not is_ours(s) or not values[2] ~= is_reserved or (values[3] and key == holder) then
      is_quick = false
      break
    end
    local size = HEAD + byte(s, 2) * WINDOW
    local format = sub(STATE, 1, size + 1)
    local n = {unpacked(format, s)}
    if now > n[4] then
      n[4] = now
    end
    local names, places = ARGV[2 + key], false
    if n[3] ~= names then
      places = places_of(n[3], names)
    end
    if places == nil or size > 207 or (n[5] > 0 and n[4] >= n[5]) or (is_reserved and lease > 0 and n[6] >= MAX_OPEN)
      or (not is_reserved and byte(values[2], 9) ~= (places and #places or n[2])) then -- a credit made it hold less
      is_quick = false
      break
    end
    -- Its values, how many, their format; where the checks' windows stand; the next of these, or where the next window
    -- stands; how long what is taken matters; the lease, how many values it has; what was read.
    counters[key] = {
      n, size, format, places, places and 1 or HEAD, 0, {n[4] + lease, 0, names, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 3, s,
    }
  end

  local reply, replies = {2, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 1
  for at = CHECKS, is_quick and stop or 0, WIDTH do
    local key, algorithm, first_param, second_param, third_param, cost, second, third =
      unpacked('<i8i8i8i8i8i8i8i8', numbers, at)
    local counter = counters[key]
    local n, places, o = counter[1], counter[4], counter[5]
    if places then
      counter[5], o = o + 1, places[o]
    else
      counter[5] = o + WINDOW
    end
    algorithm = algorithm % FLAG
    local moment = n[4]
    if cost < 0 or cost > MAX or second < 0 or third < 0 or third > MAX then
      is_quick = false
      break
    elseif is_reserved then
      local most, slot, used, empty_at, lifetime = second == 0 and MAX or third - second, nil, nil, nil, nil
      --@TAKE@
      if not slot then
        is_quick, is_refused = false, used and used > most
        break
      end
      local left, held, values = third - used - cost, counter[7], counter[8]
      held[values + 1], held[values + 2], held[values + 3] = algorithm, slot, cost
      counter[8] = values + 3
      reply[replies + 1], reply[replies + 2], reply[replies + 3] = left > 0 and left or 0, empty_at - now, slot
      replies = replies + 3
      if lifetime > counter[6] then
        counter[6] = lifetime
      end
    else
      local slot, more, is_moved = second, third - cost, true
      --@MOVE@
      if not is_moved then
        is_quick = false
        break
      end
    end
  end

  -- Nothing is taken: each check is answered as the counters were.
  for key = 1, is_refused and #counters or 0 do
    local counter = counters[key]
    local moment = counter[1][4]
    counter[1] = {unpacked(counter[3], counter[9])}
    counter[1][4], counter[5] = moment, counter[4] and 1 or HEAD
  end
  local refusals = 0
  reply[1], replies = is_refused and 0 or 2, is_refused and 1 or replies
  for at = CHECKS, is_refused and stop or 0, WIDTH do
    local key, algorithm, first_param, second_param, third_param, cost, need, cap = unpacked('<i8i8i8i8i8i8i8i8', numbers, at)
    local counter = counters[key]
    local n, places, o = counter[1], counter[4], counter[5]
    if places then
      counter[5], o = o + 1, places[o]
    else
      counter[5] = o + WINDOW
    end
    if cost < 0 or cost > MAX or need < 0 or need > MAX or cap < 0 or cap > MAX then
      refusals = 0
      break
    end
    algorithm = algorithm % FLAG
    local moment = n[4]
    local used, empty_at, frees_at = nil, moment, nil
    --@LOOK@
    local fits, wait = need == 0 or used + need <= cap, 0
    if not fits then
      refusals = refusals + 1
      wait = need <= cap and frees_at - now or -1
    end
    reply[replies + 1], reply[replies + 2], reply[replies + 3], reply[replies + 4], reply[replies + 5] =
      fits and 1 or 0, max(0, cap - used), empty_at - now, wait, -1
    replies = replies + 5
  end
  if refusals > 0 then
    return pack('<' .. string.rep('i8', replies), unpack(reply, 1, replies))
  end

  for key = 1, is_quick and #counters or 0 do
    local counter = counters[key]
    local n, held = counter[1], nil
    if not is_reserved then
      n[6] = n[6] - 1
    else
      local ttl = counter[6] + lease
      if n[7] < n[4] + ttl then
        n[7] = n[4] + ttl + SLACK
        run('PEXPIRE', KEYS[key], string.format('%.0f', math.ceil((n[7] - n[4]) / 1000)))
      end
      if lease > 0 then
        local holds, values = counter[7], counter[8]
        holds[2] = (values - 3) / 3
        held = pack(sub(LEASE, 1, values + 1), unpack(holds, 1, values))
        n[6] = n[6] + 1
        if n[5] == 0 or holds[1] < n[5] then
          n[5] = holds[1]
        end
      end
    end
    local s = pack(counter[3], unpack(n, 1, counter[2]))
    -- HSET before the rest: it is what Redis out of memory refuses.
    if tails and tails[key] then
      local writes = {'s', s}
      for o, tail in pairs(tails[key]) do
        writes[#writes + 1] = 't' .. name_at(n[3], o)
        writes[#writes + 1] = tail
      end
      if held then
        writes[#writes + 1] = lease_field
        writes[#writes + 1] = held
      end
      run('HSET', KEYS[key], unpack(writes))
    elseif held then
      run('HSET', KEYS[key], 's', s, lease_field, held)
    else
      run('HSET', KEYS[key], 's', s)
    end
    if not is_reserved then
      run('HDEL', KEYS[key], lease_field)
    end
  end
  if is_quick then
    return is_reserved and pack(sub(REPLY, 1, 2 * replies + 1), unpack(reply, 1, replies)) or 1
  end
end
