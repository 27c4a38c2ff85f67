-- Release the jobs of dead workers. ARGV: queue, limits, ms after which a job that was popped and never registered
-- counts as stranded. Returns the ids that were released.
local queue, limits, patience = ARGV[1], limits_from(2), tonumber(ARGV[6])
local time = now()
local recovered = {}

for _, composite in ipairs(redis.call('ZRANGEBYSCORE', rq_started(queue), '-inf', whole(time / 1000))) do
  local id = executed(composite)
  release(queue, id, composite, true, limits)
  recovered[#recovered + 1] = id
end

-- A worker that dies between taking a job and registering it leaves the job in RQ's intermediate queue.
local registered = {}
for _, composite in ipairs(redis.call('ZRANGE', rq_started(queue), 0, -1)) do registered[executed(composite)] = true end
local stranded = 'gloss:stranded:' .. queue
local known = is('hash', stranded)
local seen = {}
for _, id in ipairs(redis.call('LRANGE', rq_intermediate(queue), 0, -1)) do
  if not registered[id] then
    local since = tonumber(known and redis.call('HGET', stranded, id) or time) or time
    if time - since >= patience then
      redis.call('LREM', rq_intermediate(queue), 0, id)
      put_back(queue, id, false, limits)
      recovered[#recovered + 1] = id
      seen[id] = nil
    else
      seen[id] = whole(since)
    end
  end
end
redis.call('DEL', stranded)
for id, since in pairs(seen) do redis.call('HSET', stranded, id, since) end

feed(queue)
purge()
return recovered
