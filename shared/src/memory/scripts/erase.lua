-- Deletes what is kept of a user and leaves a mark, so that no turn that began before it is stored afterwards, in any
-- session: once per erasure.
--
-- KEYS  erased, sessions, turns, what the user has used of the minute, and of the day; then the messages and the meta of
--       each session, then the record of each turn, then every other key to delete
-- ARGV  time to live of the mark in seconds, deadline of this request in Unix microseconds on Redis's clock, id of the
--       erasure (18 digits), number of sessions, number of records, then the members of `sessions`, then those of `turns`
-- Returns 'erased:' and the numbers of the sessions, the messages and the turns that this erasure has deleted so far, and
-- of the members that came since the caller looked, with a colon between them; or 'late:' and the time in Unix
-- microseconds if the deadline has passed.

local FIRST_KEY, FIRST_MEMBER = 6, 6

local now_micros = clock()
local refused = late(ARGV[2], now_micros)
if refused then
  return refused
end

local sessions, records = tonumber(ARGV[4]), tonumber(ARGV[5])
local _, earlier, ids, rest = read_mark(KEYS[1])
local counts = {0, 0, 0}
if has_id(string.sub(ids, 1, ID_LENGTH), ARGV[3]) then
  -- Another attempt, or an earlier round.
  local before = {string.match(rest, '^ (%d+):(%d+):(%d+)$')}
  for at = 1, 3 do
    counts[at] = tonumber(before[at] or '') or 0
  end
  ids = string.sub(ids, ID_LENGTH + 1)
end

local of_sessions = FIRST_KEY + 2 * sessions
for at = FIRST_KEY, of_sessions - 1, 2 do
  local length = redis.pcall('LLEN', KEYS[at])
  length = type(length) == 'number' and length or 0
  if length > 0 or redis.call('EXISTS', KEYS[at + 1]) == 1 then
    counts[1] = counts[1] + 1
    counts[2] = counts[2] + length
  end
end
for at = of_sessions, of_sessions + records - 1 do
  counts[3] = counts[3] + redis.call('EXISTS', KEYS[at])
end
-- UNLINK comes first: a server without free memory rejects a script whose first write stores data. Lua passes a limited
-- number of arguments.
for at = FIRST_KEY, #KEYS, 1000 do
  redis.call('UNLINK', unpack(KEYS, at, math.min(at + 999, #KEYS)))
end
-- The mark follows at once: without it turns that run would bring sessions back.
local erased = string.format('%d:%d:%d', counts[1], counts[2], counts[3])
redis.call('SET', KEYS[1], make_mark(now_micros, earlier, ARGV[3] .. ids) .. ' ' .. erased, 'EX', ARGV[1])
-- What was used of a limit stays until its minute or day is over: otherwise an erasure would reset the limit.
forget_turns(KEYS[4])
forget_turns(KEYS[5])
for at = FIRST_MEMBER, FIRST_MEMBER + sessions - 1 do
  redis.call('ZREM', KEYS[2], ARGV[at])
end
for at = FIRST_MEMBER + sessions, #ARGV do
  redis.call('ZREM', KEYS[3], ARGV[at])
end
return 'erased:' .. erased .. ':' .. redis.call('ZCARD', KEYS[2]) + redis.call('ZCARD', KEYS[3])
