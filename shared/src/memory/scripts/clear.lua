-- Deletes a session and marks the time, so that a turn that began before it is not stored afterwards.
--
-- KEYS  messages, meta, cleared
-- ARGV  time to live of the mark in seconds, deadline of this request in Unix microseconds on Redis's clock
-- Returns 'cleared', or 'late:' and the time in Unix microseconds if the deadline has passed.

local MARK_SKEW_MICROSECONDS = 5 * 1000000 -- the same in commit.lua

local time = redis.call('TIME')
local micros = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
-- A request that was delayed on its way must not delete turns that began after its sender gave up.
if tonumber(micros) > tonumber(ARGV[2]) then
  return 'late:' .. micros
end
-- DEL comes first: a server without free memory rejects a script whose first write stores data.
redis.call('DEL', KEYS[1], KEYS[2])
-- The later mark wins, because the clock of a new master may be behind after a failover. A mark so far ahead that
-- commits ignore it must not win: they would then ignore this clear as well.
local earlier = redis.pcall('GET', KEYS[3])
local ahead = type(earlier) == 'string' and tonumber(earlier) and tonumber(earlier) - tonumber(micros)
if ahead and ahead > 0 and ahead <= MARK_SKEW_MICROSECONDS then
  micros = earlier
end
redis.call('SET', KEYS[3], micros, 'EX', ARGV[1])
return 'cleared'
