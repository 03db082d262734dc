-- Does each thing that quick.lua does, on a key that is gone afterwards: what is not allowed is found out at start.
redis.call('TIME')
redis.call('HSET', KEYS[1], 'a', 1, 'b', 2)
redis.call('HMGET', KEYS[1], 'a', 'b')
redis.call('HGET', KEYS[1], 'a')
redis.call('HGETALL', KEYS[1])
redis.call('HEXISTS', KEYS[1], 'a')
redis.call('HDEL', KEYS[1], 'a')
redis.call('PEXPIRE', KEYS[1], 1000)
redis.call('DEL', KEYS[1])
return 1
