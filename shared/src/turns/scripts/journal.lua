-- Records text of a turn that runs, renews the lease of its owner, and returns whether the turn shall stop. A repeated
-- write of the same text at the same offset changes nothing.
--
-- KEYS  record, text, index, cleared, erased
-- ARGV  member of the index, lease in milliseconds, seconds to keep an open record, what the first event said, offset of
--       the text in bytes, text, the mark of the last erasure that the turn has read (see marks.lua), beginning of the
--       turn in Unix microseconds on Redis's clock
-- Returns 'go', 'stop', 'ended' if the record is closed or the user's data was erased, or 'gap' if text before the offset
-- is missing.

local record, text, index, cleared, erased = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local keep, offset = ARGV[3], tonumber(ARGV[5])

local found = redis.call('HMGET', record, 'end', 'stop', 'start', 'lease')
local time = redis.call('TIME')
if found[1] or is_erased(erased, ARGV[7], ARGV[8], tonumber(time[1]) * 1000000 + tonumber(time[2])) then
  return 'ended'
end
local lease = lease_until(time, ARGV[2])
if found[3] then
  redis.call('HSET', record, 'lease', lease)
else
  redis.call('HSET', record, 'lease', lease, 'start', ARGV[4])
end
if not found[4] then
  -- The claim has not reached this server, or Redis has evicted the record.
  redis.call('HSET', record, 'mark', last_clear(cleared))
  redis.call('EXPIRE', record, keep)
  index_turn(index, time, ARGV[1], keep)
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
