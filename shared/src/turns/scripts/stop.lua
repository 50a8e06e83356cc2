-- Asks a turn that runs to stop. Its owner reads that with the next write of its journal.
--
-- KEYS  record
-- ARGV  deadline of this request in Unix microseconds on Redis's clock
-- Returns 'stopping'; 'none' if the turn does not run; or 'late:' and the time in Unix microseconds if the deadline has
-- passed.

local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
if micros > tonumber(ARGV[1]) then
  return string.format('late:%.0f', micros)
end
local found = redis.call('HMGET', KEYS[1], 'end', 'lease')
if found[1] or not found[2] or tonumber(found[2]) * 1000 < micros then
  return 'none'
end
redis.call('HSET', KEYS[1], 'stop', '1')
return 'stopping'
