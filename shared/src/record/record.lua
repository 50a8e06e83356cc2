-- What the scripts share that touch the record of a turn. A record is a hash:
--
--   lease  Unix milliseconds on Redis's clock until which the owner is taken for alive; absent once the turn has ended
--   mark   which clear of the session was the last when the turn began, see `last_clear`
--   stop   present if the turn is asked to stop
--   start  what the first event of the stream said
--   end    an outcome, the length of the text in bytes, and what the last event of the stream says besides, with a
--          blank between them
--
-- The outcome is 'saved', 'cleared', 'conflict', 'memory', 'empty' or 'lost'.

-- Returns what tells the last clear of a session from others: the last 18 bytes of the part of its mark that commits
-- compare, which are the id of the clear; empty if there was none.
local function last_clear(cleared)
  return string.sub(string.sub(redis.call('GET', cleared) or '', 1, MARK_LENGTH), -ID_LENGTH)
end

-- Returns until when the owner of a turn is taken for alive, in Unix milliseconds.
local function lease_until(time, lease_millis)
  local now_millis = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  return string.format('%.0f', now_millis + tonumber(lease_millis))
end

-- Adds a turn to the sorted set of the user's remembered turns, and removes those that are forgotten.
local function index_turn(index, time, member, keep)
  redis.call('ZADD', index, time[1] .. string.format('%06d', time[2]), member)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', (tonumber(time[1]) - tonumber(keep)) * 1000000)
  redis.call('EXPIRE', index, keep)
end

local function record_outcome(record)
  local last = redis.call('HGET', record, 'end')
  return last and string.match(last, '^%l+')
end

-- The value of a key is the id of its turn, a colon and the fingerprint of the request (32 bytes); then a colon and the
-- outcome, if the turn has ended and is not stored.
--
-- Returns the id, the fingerprint and the outcome; nothing if no turn has the key, and no outcome if there is none.
local function turn_of_key(key)
  local value = redis.call('GET', key)
  if value then
    return string.sub(value, 1, 36), string.sub(value, 38, 69), string.match(value, '^:(%l+)', 70)
  end
end

-- Closes a record: sets the whole text, says how the turn ended, and keeps it for `remember` seconds from now. `closing`
-- has the fields start, last, text, remember, and value (of the key).
local function close_record(record, text, key, outcome, closing)
  -- HDEL comes first: a server without free memory rejects a script whose first write stores data.
  redis.call('HDEL', record, 'lease', 'stop')
  redis.call('HSET', record, 'start', closing.start, 'end', outcome .. ' ' .. #closing.text .. ' ' .. closing.last)
  redis.call('EXPIRE', record, closing.remember)
  if closing.text ~= '' then
    -- What was recorded may be lost, by a failover or an eviction. And a string that has grown may take twice the memory
    -- that it needs.
    redis.call('SET', text, closing.text, 'EX', closing.remember)
  end
  if key then
    local value = closing.value .. (outcome == 'saved' and '' or ':' .. outcome)
    redis.call('SET', key, value, 'EX', closing.remember)
  end
end
