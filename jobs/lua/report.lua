-- Write how far an attempt is. ARGV: id, token of the attempt, then checkpoint or '', then the record's names and values.
-- Returns nil, or, where the attempt is over and nothing was written, the state now ('' where deleted).
local id, token, saved = ARGV[1], ARGV[2], ARGV[3]
local state = get(id, 'state') or ''
if state ~= 'RUNNING' or get(id, 'token') ~= token then return state end
account(id)
if #ARGV > 3 then redis.call('HSET', record(id), unpack(ARGV, 4)) end
if saved ~= '' then redis.call('SET', checkpoint(id), saved) end
if #ARGV > 3 then publish(id, state) end
return nil
