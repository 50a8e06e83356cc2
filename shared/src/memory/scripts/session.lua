-- Reads a session, after setting its state if one is passed. Never creates a session and never changes its expiry.
--
-- KEYS  messages, meta
-- ARGV  the state, or '' to only read
-- Returns nil if there is no session, otherwise fields of meta followed by the length of the list and the remaining
-- time to live in seconds.

if redis.call('EXISTS', KEYS[2]) == 0 then
  return false
end
local length = redis.call('LLEN', KEYS[1])
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[2], 'state', ARGV[1])
end
local found = redis.call('HMGET', KEYS[2], 'state', 'last_active_at', 'message_count', 'session_start', 'total_tokens')
found[6] = tostring(length)
found[7] = tostring(redis.call('TTL', KEYS[2]))
return found
