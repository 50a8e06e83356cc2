-- Opens the record of a turn, unless another turn has its key.
--
-- KEYS  record, index, cleared, then the idempotency key if there is one
-- ARGV  turn id (36 bytes), lease in milliseconds, seconds to keep an open record, then for a key: fingerprint of the
--       request, id of the dead turn that may be replaced or ''
-- Returns 'claimed', 'reused' if the key belongs to another request, or 'turn:' and the id of the turn that has the
-- key.

local record, index, cleared, key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, keep = ARGV[1], ARGV[3]

if key then
  local other, fingerprint = turn_of_key(key)
  if other and fingerprint ~= ARGV[4] then
    return 'reused'
  end
  if other and other ~= id and other ~= ARGV[5] then
    return 'turn:' .. other
  end
end
if redis.call('EXISTS', record) == 1 then
  -- An earlier attempt, whose reply was lost.
  return 'claimed'
end

local time = redis.call('TIME')
local lease = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[2]))
local mark = last_clear(cleared)
redis.call('HSET', record, 'lease', lease, 'mark', mark)
redis.call('EXPIRE', record, keep)
redis.call('ZADD', index, time[1] .. string.format('%06d', time[2]), id)
redis.call('ZREMRANGEBYSCORE', index, '-inf', (tonumber(time[1]) - tonumber(keep)) * 1000000)
redis.call('EXPIRE', index, keep)
if key then
  redis.call('SET', key, id .. ':' .. ARGV[4], 'EX', keep)
end
return 'claimed'
