-- Note how long a worker took. ARGV: key of the throughput, tokens, seconds, share of earlier notes that is kept, ms for
-- which this is remembered.
local key, kept = ARGV[1], tonumber(ARGV[4])
if not is('hash', key) then redis.call('DEL', key) end
for field, amount in pairs({ tokens = tonumber(ARGV[2]), seconds = tonumber(ARGV[3]) }) do
  local before = tonumber(redis.call('HGET', key, field) or '') or 0
  if not (before >= 0 and before < 1e15) then before = 0 end
  redis.call('HSET', key, field, string.format('%.6f', kept * before + amount))
end
redis.call('PEXPIRE', key, ARGV[5])
