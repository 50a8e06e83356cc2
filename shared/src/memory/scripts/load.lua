-- Reads the newest messages, and the time on Redis's clock at which they were read.
--
-- KEYS  messages
-- ARGV  first and last index, as in LRANGE
-- Returns the time as TIME does, the elements, newest first, and the length of the list.
--
-- This is a script rather than a transaction because a server without free memory rejects every transaction, and
-- reads must still succeed. On a single server the same three commands are sent as a pipeline: see `load` in
-- memory.rs.

local time = redis.call('TIME')
return {time, redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2]), redis.call('LLEN', KEYS[1])}
