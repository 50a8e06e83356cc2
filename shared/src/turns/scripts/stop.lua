-- Asks a turn that runs to stop. Its owner reads that with the next write of its journal.
--
-- KEYS  record
-- ARGV  deadline of this request in Unix microseconds on Redis's clock
-- Returns 'stopping'; 'none' if the turn does not run; or 'late:' and the time in Unix microseconds if the deadline has
-- passed.

local micros = clock()
local refused = late(ARGV[1], micros)
if refused then
  return refused
end
local found = redis.call('HMGET', KEYS[1], 'end', 'lease')
if found[1] or not found[2] or tonumber(found[2]) * 1000 < micros then
  return 'none'
end
redis.call('HSET', KEYS[1], 'stop', '1')
return 'stopping'
