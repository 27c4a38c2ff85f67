-- Shared by every script. Each script is one atomic step of an explanation's life. The keys are those of jobs/names.py
-- and, for the queue, RQ's own.

local FINAL = { SUCCEEDED = true, FAILED = true, CANCELLED = true }

local function record(id) return 'gloss:explanation:' .. id end
local function checkpoint(id) return 'gloss:checkpoint:' .. id end
local function events(id) return 'gloss:events:' .. id end
local function index(state) return 'gloss:index:' .. state end
local function spec_key(hash) return 'gloss:spec:' .. hash end
local function request_key(request_id) return 'gloss:request:' .. request_id end
local EXPIRY = 'gloss:expiry'

local function rq_job(id) return 'rq:job:' .. id end
local function rq_queue(name) return 'rq:queue:' .. name end
local function rq_intermediate(name) return 'rq:queue:' .. name .. ':intermediate' end
local function rq_started(name) return 'rq:wip:' .. name end

-- All times are Redis's own, in milliseconds, so that hosts need not agree on theirs.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function whole(number) return string.format('%.0f', number) end

local function get(id, field) return redis.call('HGET', record(id), field) end

local function tell(id, state)
  redis.call('XADD', events(id), 'MAXLEN', '~', 100, '*', 'state', state)
end

local function move(id, state)
  local old = get(id, 'state')
  if old then redis.call('ZREM', index(old), id) end
  redis.call('ZADD', index(state), 0, id)
  redis.call('HSET', record(id), 'state', state)
  tell(id, state)
end

-- Reach a final state, from which on the explanation lives for `retention` milliseconds.
local function finish(id, state, retention)
  local ended = now()
  local expires = whole(ended + retention)
  redis.call('HSET', record(id), 'ended', whole(ended), 'expires', expires)
  redis.call('DEL', checkpoint(id))
  move(id, state)
  redis.call('PEXPIREAT', record(id), expires)
  redis.call('PEXPIREAT', events(id), expires)
  redis.call('ZADD', EXPIRY, expires, id)
  local shared = spec_key(get(id, 'spec_hash'))
  if redis.call('GET', shared) == id then redis.call('PEXPIREAT', shared, expires) end
end

-- Count an attempt as lost. The last one that is allowed ends the explanation with `lost_error`.
local function lose(id, max_attempts, lost_error, retention)
  if redis.call('HINCRBY', record(id), 'lost', 1) >= max_attempts then
    redis.call('HSET', record(id), 'error', lost_error)
    finish(id, 'FAILED', retention)
  end
end

local function unfinished(id)
  local state = get(id, 'state')
  return state and not FINAL[state]
end

-- Take a job out of its worker's hands: forget it where its explanation has ended, else put it first in the queue.
local function release(queue, id, composite, counted, max_attempts, lost_error, retention)
  if redis.call('ZREM', rq_started(queue), composite) == 0 then return end -- another has released it before
  redis.call('LREM', rq_intermediate(queue), 0, id)
  if counted and unfinished(id) then lose(id, max_attempts, lost_error, retention) end
  if not unfinished(id) then
    redis.call('DEL', rq_job(id))
    return
  end
  if get(id, 'state') == 'RUNNING' then move(id, 'QUEUED') end
  redis.call('HSET', rq_job(id), 'status', 'queued')
  redis.call('LPUSH', rq_queue(queue), id)
end

-- Drop what has expired from the sorted sets; the records themselves expire alone.
local function purge()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', whole(now()), 'LIMIT', 0, 500)) do
    redis.call('ZREM', EXPIRY, id)
    for _, state in ipairs({ 'ALL', 'SUCCEEDED', 'FAILED', 'CANCELLED' }) do
      redis.call('ZREM', index(state), id)
    end
  end
end
