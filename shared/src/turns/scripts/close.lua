-- Closes the record of a turn that is not stored, once.
--
-- KEYS  record, text, erased, then the idempotency key if there is one
-- ARGV  outcome, what the first event said, what the last event says besides the outcome, the whole text, seconds to
--       remember the turn, value of the key or '', deadline of this request in Unix microseconds on Redis's clock, the
--       mark of the last erasure that the turn has read (see marks.lua), beginning of the turn in Unix microseconds on
--       Redis's clock
-- Returns the outcome that the record has; 'running' if the outcome 'lost' is wrong, because the owner's lease has not
-- run out; 'gone' if there is no record that could be lost; or 'late:' and the time in Unix microseconds if the deadline
-- has passed.

local record, text, erased, key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local outcome = ARGV[1]

local closed = record_outcome(record)
if closed then
  return closed
end
local micros = clock()
local refused = late(ARGV[7], micros)
if refused then
  return refused
end
if outcome == 'lost' then
  if redis.call('EXISTS', record) == 0 then
    return 'gone'
  end
  local lease = redis.call('HGET', record, 'lease')
  if lease and tonumber(lease) * 1000 >= micros then
    return 'running'
  end
  -- The text stays as it was recorded, and so does the key, which a new turn may take over.
  redis.call('HDEL', record, 'lease', 'stop')
  redis.call('HSET', record, 'end', outcome .. ' ' .. redis.call('STRLEN', text) .. ' ' .. ARGV[3])
  -- It expires no later than its place in the list of turns, by which an erasure finds it.
  return outcome
end
if is_erased(erased, ARGV[8], ARGV[9], micros) then
  -- What was erased leaves nothing behind.
  redis.call('DEL', record, text)
  return outcome
end
local other = key and turn_of_key(key)
if other and other ~= string.sub(ARGV[6], 1, 36) then
  -- Another turn has taken the key over.
  key = nil
end
close_record(record, text, key, outcome,
  {start = ARGV[2], last = ARGV[3], text = ARGV[4], remember = ARGV[5], value = ARGV[6]})
return outcome
