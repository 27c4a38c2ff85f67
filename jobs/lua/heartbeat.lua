-- A worker is ready. ARGV: queue, workers' key, member, ms that this holds. Returns how many jobs wait.
local queue, key, member, holds = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
redis.call('ZADD', key, whole(now() + holds), member)
redis.call('ZREMRANGEBYSCORE', key, '-inf', whole(now()))
return depth(queue)
