-- Read fields of explanations. ARGV: the most bytes of one explanation, bytes of all after which no further one is read,
-- number of fields n, their names, then ids. Returns for each id that was read '' where there is none, the name of what
-- cannot be read, or the fields' values.
local largest, enough, n = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local found, total = {}, 0
for place = 4 + n, #ARGV do
  local key = record(ARGV[place])
  local answer, length = '', 0
  if is('hash', key) then
    for field = 4, 3 + n do length = length + redis.call('HSTRLEN', key, ARGV[field]) end
    answer = length > largest and 'record' or redis.call('HMGET', key, unpack(ARGV, 4, 3 + n))
  elseif redis.call('EXISTS', key) == 1 then
    answer = 'record'
  end
  found[#found + 1] = answer
  if length <= largest then total = total + length end
  if total > enough then break end
end
return found
