-- Reads the newest messages, and the time at which that is what there was.
--
-- KEYS  messages
-- ARGV  first and last of the messages, as LRANGE takes them
-- Gives the time as TIME does, the elements, newest first, and how many there are in all.
--
-- A script and not a transaction, because a full server refuses every transaction, and reading must go on. Where one server
-- has everything, the same three commands are sent as they are: see `load` in memory.rs.

local time = redis.call('TIME')
return {time, redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2]), redis.call('LLEN', KEYS[1])}
