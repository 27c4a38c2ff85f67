-- Begin an attempt. ARGV: id, token of this call, max attempts, lost error, retention in ms.
-- Returns the attempt's number, or nil where nothing is left to do.
local id, token, max_attempts, lost_error, retention = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
if not unfinished(id) then return nil end
if get(id, 'state') == 'RUNNING' then
  -- A retry of this very call, whose first answer was lost on its way.
  if get(id, 'token') == token then return tonumber(get(id, 'attempt')) end
  lose(id, max_attempts, lost_error, retention)
  if not unfinished(id) then return nil end
end
local attempt = redis.call('HINCRBY', record(id), 'attempt', 1)
redis.call('HSET', record(id), 'token', token, 'started', whole(now()))
move(id, 'RUNNING')
return attempt
