-- Begin an attempt. ARGV: id, token of this call, limits.
-- Returns the attempt's number; nil where nothing is left to do; or the name of what cannot be used, for which the
-- explanation has just failed.
local id, token, limits = ARGV[1], ARGV[2], limits_from(3)
local wrong = fault(id)
if wrong then
  condemn(id, limits.corrupt, limits.retention)
  return wrong
end
if not unfinished(id) then return nil end
if get(id, 'state') == 'RUNNING' then
  -- A retry of this very call, whose first answer was lost on its way.
  if get(id, 'token') == token then return tonumber(get(id, 'attempt')) end
  lose(id, limits)
  if not unfinished(id) then return nil end
end
move(id, 'RUNNING')
redis.call('HSET', record(id), 'token', token, 'started', whole(now()))
return redis.call('HINCRBY', record(id), 'attempt', 1)
