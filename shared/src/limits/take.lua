-- Counts a turn that has no record, unless a limit is used up.
--
-- KEYS  what the user has used of the minute, and of the day
-- ARGV  turn id (36 bytes), most turns a minute, most tokens a day (0 for no limit)
-- Returns 'claimed', or 'limited:' and the seconds after which the user may try again.

local now = tonumber(redis.call('TIME')[1])
return take(KEYS[1], KEYS[2], ARGV[2], ARGV[3], now, ARGV[1]) or 'claimed'
