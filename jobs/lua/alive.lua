-- The workers that are ready. ARGV: workers' key.
return redis.call('ZRANGEBYSCORE', ARGV[1], '(' .. whole(now()), '+inf')
