-- Release the jobs of dead workers. ARGV: queue, max attempts, lost error, retention in ms, ms after which a job that was
-- popped and never registered counts as stranded. Returns the ids that were released.
local queue, max_attempts, lost_error = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local retention, patience = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = now()
local recovered = {}

for _, composite in ipairs(redis.call('ZRANGEBYSCORE', rq_started(queue), '-inf', whole(time / 1000))) do
  local id = string.match(composite, '^[^:]+')
  release(queue, id, composite, true, max_attempts, lost_error, retention)
  recovered[#recovered + 1] = id
end

-- A worker that dies between taking a job and registering it leaves the job in RQ's intermediate queue.
local registered = {}
for _, composite in ipairs(redis.call('ZRANGE', rq_started(queue), 0, -1)) do
  registered[string.match(composite, '^[^:]+')] = true
end
local stranded = 'gloss:stranded:' .. queue
local seen = {}
for _, id in ipairs(redis.call('LRANGE', rq_intermediate(queue), 0, -1)) do
  if not registered[id] then
    seen[id] = redis.call('HGET', stranded, id) or whole(time)
    if time - tonumber(seen[id]) >= patience then
      redis.call('LREM', rq_intermediate(queue), 0, id)
      if unfinished(id) then redis.call('LPUSH', rq_queue(queue), id) else redis.call('DEL', rq_job(id)) end
      recovered[#recovered + 1] = id
      seen[id] = nil
    end
  end
end
redis.call('DEL', stranded)
for id, since in pairs(seen) do redis.call('HSET', stranded, id, since) end

purge()
return recovered
