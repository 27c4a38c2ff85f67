-- Begin an attempt, or go on with the one that has yielded. ARGV: id, token of this call, limits.
-- Returns {the attempt's number, ms that the explanation waited, ms that the attempt has run before}; nil where nothing
-- is left to do; or the name of what cannot be used, for which the explanation has just failed.
local id, token, limits = ARGV[1], ARGV[2], limits_from(3)
local wrong = fault(id)
if wrong then
  condemn(id, limits.corrupt, limits.retention)
  return wrong
end
if not unfinished(id) then return nil end

local function answer()
  local ran, begun = natural(get(id, 'ran')) or 0, natural(get(id, 'accounted')) or 0
  local queued = natural(get(id, 'queued')) or tonumber(get(id, 'created'))
  return { tonumber(get(id, 'attempt')), math.max(0, begun - queued), ran }
end

if get(id, 'state') == 'RUNNING' then
  -- A retry of this very call, whose first answer was lost on its way.
  if get(id, 'token') == token then return answer() end
  lose(id, limits)
  if not unfinished(id) then return nil end
end
local time = whole(now())
if redis.call('HDEL', record(id), 'yielded') == 0 then
  redis.call('HINCRBY', record(id), 'attempt', 1)
  redis.call('HSET', record(id), 'started', time, 'ran', 0)
end
move(id, 'RUNNING')
redis.call('HSET', record(id), 'token', token, 'accounted', time)
charge_running(id, 1) -- of those who had the same, another is next
feed(get(id, 'queue') or '')
return answer()
