-- Create an explanation, its indexes and its RQ job, or find the one that answers the same question.
-- ARGV: id, queue, spec hash, request id or '', fresh 0|1, how many of one tenant may wait, ms that a request id is
--       remembered, number of record fields n, n names and values, then the RQ job's names and values.
-- Returns {verdict, id}: created | shared | reused | full.
local id, queue, hash, request_id, fresh = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local max_queued, remembered, fields = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])

local function store_request(other)
  if request_id ~= '' then redis.call('SET', request_key(id, request_id), hash .. ' ' .. other, 'PX', remembered) end
end

purge()
if get(id, 'state') then return { 'created', id } end -- a retry whose first answer was lost

local before = request_id ~= '' and text(request_key(id, request_id))
if before then
  local old_hash, old_id = string.match(before, '^(%x+) (%x+%-?%x*)$')
  if old_id and redis.call('EXISTS', record(old_id)) == 1 then
    return { old_hash == hash and 'shared' or 'reused', old_id }
  end
end

if not fresh then
  local same = text(spec_key(id, hash))
  local state = same and get(same, 'state')
  if state == 'SUCCEEDED' or OPEN[state] then
    store_request(same)
    return { 'shared', same }
  end
end

local list = waiting(queue, owner(id))
local before_it = is('list', list) and redis.call('LLEN', list) or 0
for _, other in ipairs(redis.call('LRANGE', rq_queue(queue), 0, -1)) do
  if owner(other) == owner(id) then before_it = before_it + 1 end
end
if before_it >= max_queued then return { 'full', '' } end

redis.call('HSET', record(id), 'queue', queue, 'spec_hash', hash, 'created', whole(now()), 'queued', whole(now()),
  'attempt', 0, 'lost', 0, unpack(ARGV, 9, 8 + 2 * fields))
redis.call('SET', spec_key(id, hash), id)
store_request(id)
enlist(id, 'ALL')
move(id, 'QUEUED')
redis.call('SADD', 'rq:queues', rq_queue(queue))
redis.call('HSET', rq_job(id), unpack(ARGV, 9 + 2 * fields))
wait(queue, id, 'RPUSH')
feed(queue)
return { 'created', id }
