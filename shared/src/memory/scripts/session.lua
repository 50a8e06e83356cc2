-- Reads a session, after setting its state if one is passed. Never creates a session and never changes its expiry.
--
-- KEYS  messages, meta, cleared
-- ARGV  the state, or '' to only read; then for a state: deadline of this request in Unix microseconds on Redis's
--       clock, id of the change (18 digits)
-- Returns nil if there is no session, otherwise fields of meta followed by the length of the list and the remaining
-- time to live in seconds; or 'late:' and the time in Unix microseconds if the deadline has passed.

local MAX_CHANGES = 8

local refused = ARGV[1] ~= '' and late(ARGV[2], clock())
if refused then
  return refused
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  return false
end
local length = redis.call('LLEN', KEYS[1])
if ARGV[1] ~= '' then
  -- A change that is known already was made by another attempt, and the state may have changed since. The mark of the
  -- last clear knows the changes of the session before it.
  local changes = redis.call('HMGET', KEYS[2], 'changes')[1] or ''
  local _, _, before = read_mark(KEYS[3])
  if not has_id(changes, ARGV[3]) and not has_id(before, ARGV[3]) then
    changes = ARGV[3] .. string.sub(changes, 1, (MAX_CHANGES - 1) * ID_LENGTH)
    redis.call('HSET', KEYS[2], 'state', ARGV[1], 'changes', changes)
  end
end
local found = redis.call('HMGET', KEYS[2], 'state', 'last_active_at', 'message_count', 'session_start', 'total_tokens',
  'stored')
local stored = found[6]
found[6] = tostring(length)
found[7] = tostring(redis.call('TTL', KEYS[2]))
found[8] = stored
return found
