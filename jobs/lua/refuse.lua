-- Forget a job that cannot be run, wherever it is in the queue; its explanation fails. ARGV: queue, id, limits.
local queue, id, limits = ARGV[1], ARGV[2], limits_from(3)
for _, composite in ipairs(redis.call('ZRANGE', rq_started(queue), 0, -1)) do
  if executed(composite) == id then redis.call('ZREM', rq_started(queue), composite) end
end
redis.call('LREM', rq_intermediate(queue), 0, id)
withdraw(queue, id)
if fault(id) or unfinished(id) then condemn(id, limits.corrupt, limits.retention) end
redis.call('DEL', rq_job(id))
feed(queue)
