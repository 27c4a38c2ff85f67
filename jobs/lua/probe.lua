-- Fail where Redis takes no writes.
redis.call('SET', 'gloss:probe', 1, 'PX', 10000)
