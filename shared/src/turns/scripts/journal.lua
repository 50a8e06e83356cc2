-- Records text of a turn that runs, renews the lease of its owner, and returns whether the turn shall stop. A repeated
-- write of the same text at the same offset changes nothing.
--
-- KEYS  record, text, index, cleared
-- ARGV  turn id, lease in milliseconds, seconds to keep an open record, what the first event said, offset of the text
--       in bytes, text
-- Returns 'go', 'stop', 'ended' if the record is closed, or 'gap' if text before the offset is missing.

local record, text, index, cleared = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local keep, offset = ARGV[3], tonumber(ARGV[5])

local found = redis.call('HMGET', record, 'end', 'stop', 'start', 'lease')
if found[1] then
  return 'ended'
end
local time = redis.call('TIME')
local lease = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[2]))
if found[3] then
  redis.call('HSET', record, 'lease', lease)
else
  redis.call('HSET', record, 'lease', lease, 'start', ARGV[4])
end
if not found[4] then
  -- The claim has not reached this server, or Redis has evicted the record.
  redis.call('HSET', record, 'mark', last_clear(cleared))
  redis.call('EXPIRE', record, keep)
  redis.call('ZADD', index, time[1] .. string.format('%06d', time[2]), ARGV[1])
  redis.call('EXPIRE', index, keep)
end
if redis.call('STRLEN', text) < offset then
  return 'gap'
end
if ARGV[6] ~= '' then
  redis.call('SETRANGE', text, offset, ARGV[6])
  if offset == 0 then
    redis.call('EXPIRE', text, keep)
  end
end
return found[2] and 'stop' or 'go'
