-- Reads the newest messages, and the time at which that is what there was.
--
-- KEYS  messages
-- ARGV  most messages
-- Gives seconds, microseconds, the elements, newest first, and how many there are in all.
--
-- A script and not a transaction, because a full server refuses every transaction, and reading must go on.

local time = redis.call('TIME')
local elements = {}
if tonumber(ARGV[1]) > 0 then
  elements = redis.call('LRANGE', KEYS[1], 0, ARGV[1] - 1)
end
return {time[1], time[2], elements, redis.call('LLEN', KEYS[1])}
