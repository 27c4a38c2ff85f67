-- Let others have the worker: the attempt goes on later, from this checkpoint. Its job waits again once the worker has
-- released it. ARGV: id, token of the attempt, checkpoint, then the record's names and values.
-- Returns nil, or, where the attempt is over and nothing was written, the state now ('' where deleted).
local id, token = ARGV[1], ARGV[2]
local state = get(id, 'state') or ''
if get(id, 'yielded') == token then return nil end -- a retry whose first answer was lost
if state ~= 'RUNNING' or get(id, 'token') ~= token then return state end
account(id)
redis.call('SET', checkpoint(id), ARGV[3])
redis.call('HSET', record(id), 'yielded', token, unpack(ARGV, 4))
move(id, 'QUEUED')
return nil
