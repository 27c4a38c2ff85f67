-- End an explanation that has not ended. ARGV: id, retention in ms.
-- Returns {state before, the worker on it or ''}, with '' for the state where the record is no hash; nil where there is
-- no such explanation.
local id, retention = ARGV[1], tonumber(ARGV[2])
if redis.call('EXISTS', record(id)) == 0 then return nil end
if not is('hash', record(id)) then return { '', '' } end
local state = get(id, 'state') or ''
if FINAL[state] then return { state, '' } end
if withdraw(get(id, 'queue') or '', id) then redis.call('DEL', rq_job(id)) end
finish(id, 'CANCELLED', retention)
return { state, is('hash', rq_job(id)) and redis.call('HGET', rq_job(id), 'worker_name') or '' }
