-- Shared by every script. Each script is one atomic step of an explanation's life. The keys are those of jobs/names.py
-- and, for the queue, RQ's own.
--
-- Others may write to this Redis, and a disk may fail. What belongs to one explanation is checked before it is used, so
-- that a record that cannot be used harms that explanation only; a key that all share makes every script fail.

local FINAL = { SUCCEEDED = true, FAILED = true, CANCELLED = true }
local OPEN = { QUEUED = true, RUNNING = true }

-- An explanation's key, `id` below, is ID-OWNER, or ID alone where it has no owner. What it is shared, listed and asked
-- for by is its owner's.
local function owner(id) return string.match(id, '^%x+%-(%x+)$') or '' end
local function scoped(prefix, scope, name) return prefix .. (scope == '' and '' or scope .. ':') .. name end

local function record(id) return 'gloss:explanation:' .. id end
local function checkpoint(id) return 'gloss:checkpoint:' .. id end
local function events(id) return 'gloss:events:' .. id end
local function index(scope, state) return scoped('gloss:index:', scope, state) end
local function spec_key(id, hash) return scoped('gloss:spec:', owner(id), hash) end
local function request_key(id, request_id) return scoped('gloss:request:', owner(id), request_id) end
local EXPIRY = 'gloss:expiry'

local function rq_job(id) return 'rq:job:' .. id end
local function rq_queue(name) return 'rq:queue:' .. name end
local function rq_intermediate(name) return 'rq:queue:' .. name .. ':intermediate' end
local function rq_started(name) return 'rq:wip:' .. name end

local function waiting(queue, tenant) return 'gloss:waiting:' .. queue .. ':' .. tenant end
local function served(queue) return 'gloss:served:' .. queue end
local function chosen(queue) return 'gloss:chosen:' .. queue end

-- All times are Redis's own, in milliseconds, so that hosts need not agree on theirs.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function whole(number) return string.format('%.0f', number) end

local function is(kind, key) return redis.call('TYPE', key).ok == kind end

-- The number that a text of digits is, nil for any other.
local function natural(digits)
  local number = string.match(digits or '', '^%d+$') and tonumber(digits)
  return number and number < 1e15 and number or nil
end

-- A field of the record, false where there is none. A record that is no hash has none.
local function get(id, field) return is('hash', record(id)) and redis.call('HGET', record(id), field) end

local function text(key) return is('string', key) and redis.call('GET', key) end

-- The explanation's id in RQ's name of an execution.
local function executed(composite) return string.match(composite, '^[^:]+') or '' end

-- Whose lists an explanation is in: its owner's, and that of all which have one.
local function scopes(id)
  local own = owner(id)
  return own == '' and { '' } or { own, 'owned' }
end

local function unlist(id, state)
  for _, scope in ipairs(scopes(id)) do redis.call('ZREM', index(scope, state), id) end
end

local function unlist_all(id)
  for _, state in ipairs({ 'ALL', 'QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED' }) do unlist(id, state) end
end

local function enlist(id, state)
  for _, scope in ipairs(scopes(id)) do redis.call('ZADD', index(scope, state), 0, id) end
end

local function publish(id, state)
  local entry = { 'XADD', events(id), 'MAXLEN', '~', 100, '*', 'state', state }
  local added = redis.pcall(unpack(entry))
  if type(added) == 'table' and added.err then -- it is no stream, or one that takes no further entry
    redis.call('DEL', events(id))
    redis.call(unpack(entry))
  end
end

local function move(id, state)
  local old = get(id, 'state')
  enlist(id, state)
  if old ~= state and (FINAL[old] or OPEN[old]) then unlist(id, old) end
  redis.call('HSET', record(id), 'state', state)
  publish(id, state)
end

-- Whose turn it is. What waits is in a list for each tenant. RQ's own list, from which workers take, holds no more than
-- the next job, and before it what was put back by workers that were lost or stopped. A sorted set, `served`, holds the
-- time of workers, in milliseconds, that each tenant has had: the next job is the first of the tenant with the least.

-- A tenant whose jobs are the first to come for a while begins with the least of the others' time. So it gets no more turns
-- for the time in which it had no jobs, and does not wait for what others had before.
local function charge(queue, tenant, spent)
  local least = redis.call('ZRANGE', served(queue), 0, 0, 'WITHSCORES')[2] or '0'
  redis.call('ZADD', served(queue), 'NX', least, tenant)
  redis.call('ZINCRBY', served(queue), spent, tenant)
end

-- Let RQ's list hold the next job, wherever one waits. Whatever empties that list or lets a job wait has to call this.
local function feed(queue)
  if redis.call('LLEN', rq_queue(queue)) > 0 then return end
  for _, tenant in ipairs(redis.call('ZRANGE', served(queue), 0, -1)) do
    local list = waiting(queue, tenant)
    local id = is('list', list) and redis.call('LPOP', list)
    if id then
      redis.call('RPUSH', rq_queue(queue), id)
      redis.call('SET', chosen(queue), id)
      return
    end
    redis.call('ZREM', served(queue), tenant) -- nothing of it waits, and it has had less than whoever does
  end
end

-- Put a job behind what waits of its tenant, by RPUSH, or before it, by LPUSH.
local function wait(queue, id, push)
  local list = waiting(queue, owner(id))
  if not is('list', list) then redis.call('DEL', list) end
  redis.call(push, list, id)
  charge(queue, owner(id), 0)
end

-- Choose the next job again. While all workers are busy, the job in RQ's list may have been chosen some time ago, when the
-- tenants had used other amounts of the workers' time.
local function choose_again(queue)
  local id = text(chosen(queue))
  if id and redis.call('LINDEX', rq_queue(queue), -1) == id then
    redis.call('RPOP', rq_queue(queue))
    wait(queue, id, 'LPUSH')
  end
  feed(queue)
end

-- Take a job out of the queue. Returns whether it was in it.
local function withdraw(queue, id)
  local found = 0
  for _, list in ipairs({ rq_queue(queue), waiting(queue, owner(id)) }) do
    if is('list', list) then found = found + redis.call('LREM', list, 0, id) end
  end
  if found > 0 then feed(queue) end
  return found > 0
end

-- How many jobs wait.
local function depth(queue)
  local total = redis.call('LLEN', rq_queue(queue))
  for _, tenant in ipairs(redis.call('ZRANGE', served(queue), 0, -1)) do
    local list = waiting(queue, tenant)
    if is('list', list) then total = total + redis.call('LLEN', list) end
  end
  return total
end

-- Charge a tenant for what runs of it. Nobody's share matters while nobody waits.
local function charge_running(id, spent)
  local queue = get(id, 'queue') or ''
  if is('zset', served(queue)) then charge(queue, owner(id), whole(spent)) end
end

local LONGEST_RUN = 3600 * 1000 -- between two accounts, in milliseconds; more is an error in the record

-- Note how long an attempt has run since it was accounted for, for its limit and for its tenant's share.
local function account(id)
  local since, before = natural(get(id, 'accounted')), natural(get(id, 'ran'))
  if not since then return end
  local spent = math.min(math.max(0, now() - since), LONGEST_RUN)
  redis.call('HSET', record(id), 'accounted', whole(now()), 'ran', whole((before or 0) + spent))
  charge_running(id, spent)
end

-- Reach a final state, from which on the explanation lives for `retention` milliseconds.
local function finish(id, state, retention)
  if get(id, 'state') == 'RUNNING' then account(id) end
  local ended = now()
  local expires = whole(ended + retention)
  redis.call('HSET', record(id), 'ended', whole(ended), 'expires', expires)
  redis.call('DEL', checkpoint(id))
  move(id, state)
  redis.call('PEXPIREAT', record(id), expires)
  redis.call('PEXPIREAT', events(id), expires)
  redis.call('ZADD', EXPIRY, expires, id)
  local shared = spec_key(id, get(id, 'spec_hash') or '')
  if text(shared) == id then redis.call('PEXPIREAT', shared, expires) end
end

local function unfinished(id) return is('hash', record(id)) and not FINAL[get(id, 'state')] end

local LARGEST_FIELD = 64 * 1024 * 1024 -- bytes; a question has at most some millions

-- What keeps an explanation that has not ended from being worked on: the name of a field, 'record' for all of it, 'job'
-- for its place in the queue. Nil where nothing does, or nothing is to be done.
local function fault(id)
  if redis.call('EXISTS', record(id)) == 0 then return nil end
  if not is('hash', record(id)) then return 'record' end
  local state = get(id, 'state')
  if FINAL[state] then return nil end
  if not OPEN[state] then return 'state' end
  for _, field in ipairs({ 'attempt', 'lost' }) do
    if not string.match(get(id, field) or '', '^%d%d?%d?%d?%d?%d?%d?%d?%d?$') then return field end
  end
  if not string.match(get(id, 'created') or '', '^%d+$') then return 'created' end
  for _, field in ipairs({ 'spec', 'model' }) do
    local length = redis.call('HSTRLEN', record(id), field)
    if length == 0 or length > LARGEST_FIELD then return field end
  end
  return nil
end

-- End an explanation that cannot be worked on. A record that is no hash cannot say so, and only expires.
local function condemn(id, error, retention)
  if is('hash', record(id)) then
    redis.call('HSET', record(id), 'error', error)
    finish(id, 'FAILED', retention)
    return
  end
  local expires = whole(now() + retention)
  redis.call('PEXPIREAT', record(id), expires)
  redis.call('ZADD', EXPIRY, expires, id)
  redis.call('DEL', checkpoint(id), events(id))
end

-- `limits`: the arguments that end attempts, as AttemptStore sends them from ARGV's place `first` on.
local function limits_from(first)
  return {
    attempts = tonumber(ARGV[first]), lost = ARGV[first + 1], corrupt = ARGV[first + 2],
    retention = tonumber(ARGV[first + 3]),
  }
end

-- Count an attempt as lost. The last one that is allowed ends the explanation.
local function lose(id, limits)
  if redis.call('HINCRBY', record(id), 'lost', 1) >= limits.attempts then
    redis.call('HSET', record(id), 'error', limits.lost)
    finish(id, 'FAILED', limits.retention)
  end
end

-- A job that no worker holds: forget it where its explanation has ended, else let it wait. One that has yielded comes
-- last of its tenant's, and has lost nothing, whatever became of its worker since. Any other comes first of all.
local function put_back(queue, id, counted, limits)
  local job = is('hash', rq_job(id)) and redis.call('HEXISTS', rq_job(id), 'data') == 1
  local mark = get(id, 'yielded')
  local yielded = mark and mark ~= 'waits'
  if fault(id) or (unfinished(id) and not job) then
    condemn(id, limits.corrupt, limits.retention)
  elseif counted and not yielded and unfinished(id) then
    lose(id, limits)
  end
  if not unfinished(id) then
    redis.call('DEL', rq_job(id))
    return
  end
  if get(id, 'state') == 'RUNNING' then move(id, 'QUEUED') end
  redis.call('HSET', rq_job(id), 'status', 'queued')
  redis.call('HSET', record(id), 'queued', whole(now()))
  if yielded then
    redis.call('HSET', record(id), 'yielded', 'waits')
    wait(queue, id, 'RPUSH')
  else
    if text(chosen(queue)) == id then redis.call('DEL', chosen(queue)) end
    redis.call('LPUSH', rq_queue(queue), id)
  end
end

-- Take a job out of its worker's hands.
local function release(queue, id, composite, counted, limits)
  if redis.call('ZREM', rq_started(queue), composite) == 0 then return end -- another has released it before
  redis.call('LREM', rq_intermediate(queue), 0, id)
  put_back(queue, id, counted, limits)
end

-- Drop what has expired from the sorted sets; the records themselves expire alone.
local function purge()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', whole(now()), 'LIMIT', 0, 500)) do
    redis.call('ZREM', EXPIRY, id)
    unlist_all(id)
  end
end
