-- End an attempt with SUCCEEDED or FAILED. ARGV: id, token of the attempt, state, retention in ms,
-- then the record's names and values.
-- Returns nil, or, where the attempt is over and nothing was written, the state now ('' where deleted).
local id, token, wanted, retention = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local state = get(id, 'state') or ''
local current = get(id, 'token') == token
if current and state == wanted then return nil end -- a retry whose first answer was lost
if not current or state ~= 'RUNNING' then return state end
redis.call('HSET', record(id), unpack(ARGV, 5))
if wanted == 'SUCCEEDED' then redis.call('HDEL', record(id), 'partial') end
finish(id, wanted, retention)
return nil
