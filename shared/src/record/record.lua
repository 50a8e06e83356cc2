-- What the scripts share that touch the record of a turn. A record is a hash:
--
--   lease  Unix milliseconds on Redis's clock until which the owner is taken for alive; absent once the turn has ended
--   mark   which clear of the session was the last when the turn began, see `last_clear`
--   stop   present if the turn is asked to stop
--   start  what the first event of the stream said
--   end    an outcome and a blank, then what the last event of the stream says besides
--
-- The outcome is 'saved', 'cleared', 'conflict', 'memory', 'empty' or 'lost'.

-- Returns what tells the last clear of a session from others: the last 18 bytes of the part of its mark that commits
-- compare, which are the id of the clear; empty if there was none.
local function last_clear(cleared)
  return string.sub(string.sub(redis.call('GET', cleared) or '', 1, 35), -18)
end

local function record_outcome(record)
  local last = redis.call('HGET', record, 'end')
  return last and string.match(last, '^%l+')
end

-- Returns the id of the turn that has this key, or nil.
local function turn_of_key(key)
  local value = redis.call('GET', key)
  return value and string.sub(value, 1, 36), value and string.sub(value, 38)
end

-- Closes a record: adds the rest of the text, says how the turn ended, and keeps it for `remember` seconds from now.
-- `closing` has the fields start, last, offset (of the rest of the text), tail, remember, and value (of the key).
local function close_record(record, text, key, outcome, closing)
  -- HDEL comes first: a server without free memory rejects a script whose first write stores data.
  redis.call('HDEL', record, 'lease', 'stop')
  local offset = tonumber(closing.offset)
  local recorded = offset > 0 and redis.call('GET', text) or ''
  if #recorded < offset then
    -- Redis has evicted what was recorded. A reader must not get a text with a hole.
    redis.call('DEL', record, text)
    return
  end
  redis.call('HSET', record, 'start', closing.start, 'end', outcome .. ' ' .. closing.last)
  redis.call('EXPIRE', record, closing.remember)
  local whole = string.sub(recorded, 1, offset) .. closing.tail
  if whole ~= '' then
    -- A string that has grown may take twice the memory that it needs. One that is set takes what it needs.
    redis.call('SET', text, whole, 'EX', closing.remember)
  end
  if key then
    redis.call('SET', key, closing.value, 'EX', closing.remember)
  end
end

