-- Forget an explanation. ARGV: id.
local id = ARGV[1]
local shared = spec_key(id, get(id, 'spec_hash') or '')
if text(shared) == id then redis.call('DEL', shared) end
unlist_all(id)
redis.call('ZREM', EXPIRY, id)
redis.call('DEL', record(id), checkpoint(id))
-- The stream outlives the record for a moment, so that those who watch learn of its end.
publish(id, 'DELETED')
redis.call('EXPIRE', events(id), 60)
