-- Forgets a session and leaves a mark, so that a turn which began before this moment is not stored after it.
--
-- KEYS  messages, meta, cleared
-- ARGV  seconds that the mark lives, until when this may be done in Redis microseconds
-- Gives 'cleared', or 'late:' and the time.

local time = redis.call('TIME')
local micros = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
-- A request that was held up on its way must not take turns with it that came after its sender gave it up.
if tonumber(micros) > tonumber(ARGV[2]) then
  return 'late:' .. micros
end
-- Deleting comes first: a full server refuses a first write that stores something.
redis.call('DEL', KEYS[1], KEYS[2])
-- After a failover to a server whose clock is behind, the later of the two marks holds.
local earlier = redis.pcall('GET', KEYS[3])
if type(earlier) == 'string' and tonumber(earlier) and tonumber(earlier) > tonumber(micros) then
  micros = earlier
end
redis.call('SET', KEYS[3], micros, 'EX', ARGV[1])
return 'cleared'
