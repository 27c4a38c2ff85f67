-- End an explanation that has not ended. ARGV: id, retention in ms.
-- Returns {state before, the worker on it or ''}, or nil where there is no such explanation.
local id, retention = ARGV[1], tonumber(ARGV[2])
local state = get(id, 'state')
if not state then return nil end
if FINAL[state] then return { state, '' } end
if redis.call('LREM', rq_queue(get(id, 'queue')), 0, id) > 0 then redis.call('DEL', rq_job(id)) end
finish(id, 'CANCELLED', retention)
return { state, redis.call('HGET', rq_job(id), 'worker_name') or '' }
