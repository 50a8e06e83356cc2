-- Reads a session, after setting its state if one is passed. Never creates a session and never changes its expiry.
--
-- KEYS  messages, meta, cleared
-- ARGV  the state, or '' to only read; then for a state: deadline of this request in Unix microseconds on Redis's
--       clock, id of the change (18 digits)
-- Returns nil if there is no session, otherwise fields of meta followed by the length of the list and the remaining
-- time to live in seconds; or 'late:' and the time in Unix microseconds if the deadline has passed.

local ID_LENGTH = 18
local MAX_IDS = 8

if ARGV[1] ~= '' then
  -- A request that was delayed on its way must not take effect after its sender gave up.
  local time = redis.call('TIME')
  local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
  if micros > tonumber(ARGV[2]) then
    return string.format('late:%.0f', micros)
  end
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  return false
end
local length = redis.call('LLEN', KEYS[1])
if ARGV[1] ~= '' then
  -- A change that is known already was made by another attempt, and the state may have changed since. The mark of the
  -- last clear knows the changes of the session before it.
  local changes = redis.call('HMGET', KEYS[2], 'changes')[1] or ''
  local mark = redis.pcall('GET', KEYS[3])
  local before = string.match(type(mark) == 'string' and mark or '', '%.(%d*)$') or ''
  local is_new = true
  for _, known in ipairs({changes, before}) do
    for at = 1, #known, ID_LENGTH do
      is_new = is_new and string.sub(known, at, at + ID_LENGTH - 1) ~= ARGV[3]
    end
  end
  if is_new then
    changes = ARGV[3] .. string.sub(changes, 1, (MAX_IDS - 1) * ID_LENGTH)
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
