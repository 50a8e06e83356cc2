-- Deletes a session and marks the time, so that a turn that began before it is not stored afterwards.
--
-- KEYS  messages, meta, cleared
-- ARGV  time to live of the mark in seconds, deadline of this request in Unix microseconds on Redis's clock
-- Returns 'cleared', or 'late:' and the time in Unix microseconds if the deadline has passed.

local time = redis.call('TIME')
local micros = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
-- A request that was delayed on its way must not delete turns that began after its sender gave up.
if tonumber(micros) > tonumber(ARGV[2]) then
  return 'late:' .. micros
end
-- DEL comes first: a server without free memory rejects a script whose first write stores data.
redis.call('DEL', KEYS[1], KEYS[2])
-- The later mark wins, because the clock of a new master may be behind after a failover.
local earlier = redis.pcall('GET', KEYS[3])
if type(earlier) == 'string' and tonumber(earlier) and tonumber(earlier) > tonumber(micros) then
  micros = earlier
end
redis.call('SET', KEYS[3], micros, 'EX', ARGV[1])
return 'cleared'
