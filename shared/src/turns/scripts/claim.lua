-- Opens the record of a turn, unless another turn has its key or the user has used up a limit.
--
-- KEYS  record, index, cleared, then the idempotency key if there is one, then for limits: what the user has used of the
--       minute, and of the day
-- ARGV  turn id (36 bytes), lease in milliseconds, seconds to keep an open record, member of the index, fingerprint of the
--       request or '' without a key, id of the dead turn that may be replaced or '', then for limits: most turns a minute,
--       most tokens a day (0 for no limit)
-- Returns 'claimed', 'reused' if the key belongs to another request, 'turn:' and the id of the turn that has the key, or
-- 'limited:' and the seconds after which the user may try again.

local record, index, cleared = KEYS[1], KEYS[2], KEYS[3]
local id, keep = ARGV[1], ARGV[3]
local key = ARGV[5] ~= '' and KEYS[4]

if key then
  local other, fingerprint = turn_of_key(key)
  if other and fingerprint ~= ARGV[5] then
    return 'reused'
  end
  if other and other ~= id and other ~= ARGV[6] then
    return 'turn:' .. other
  end
end
if redis.call('EXISTS', record) == 1 then
  -- An earlier attempt, whose reply was lost.
  return 'claimed'
end

local time = redis.call('TIME')
local limited = ARGV[7] and take(KEYS[#KEYS - 1], KEYS[#KEYS], ARGV[7], ARGV[8], tonumber(time[1]), id)
if limited then
  return limited
end
redis.call('HSET', record, 'lease', lease_until(time, ARGV[2]), 'mark', last_clear(cleared))
redis.call('EXPIRE', record, keep)
index_turn(index, time, ARGV[4], keep)
if key then
  redis.call('SET', key, id .. ':' .. ARGV[5], 'EX', keep)
end
return 'claimed'
