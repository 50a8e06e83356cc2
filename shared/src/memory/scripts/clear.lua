-- Deletes a session and leaves a mark, so that a turn that began before it is not stored afterwards: once per clear.
--
-- KEYS  messages, meta, cleared
-- ARGV  time to live of the mark in seconds, deadline of this request in Unix microseconds on Redis's clock, id of the
--       clear (18 digits)
-- Returns 'cleared', or 'late:' and the time in Unix microseconds if the deadline has passed.
--
-- A mark is the time of the clear in Unix microseconds, a point, the id of this clear, and the ids of changes before
-- it, newest first: changes of the deleted session's state, and earlier clears. So it is a decimal number, and each
-- clear leaves another mark, whatever the clock says.

local ID_LENGTH = 18
local MAX_IDS = 16

local MARK_SKEW_MICROSECONDS = 5 * 1000000 -- the same in commit.lua

local time = redis.call('TIME')
local micros = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
-- A request that was delayed on its way must not delete turns that began after its sender gave up.
if tonumber(micros) > tonumber(ARGV[2]) then
  return 'late:' .. micros
end

local mark = redis.pcall('GET', KEYS[3])
local earlier, ids = string.match(type(mark) == 'string' and mark or '', '^(%d+)%.?(%d*)$')
ids = ids or ''
for at = 1, #ids, ID_LENGTH do
  if string.sub(ids, at, at + ID_LENGTH - 1) == ARGV[3] then
    -- Another attempt has cleared the session, and turns may have been stored since. The mark is written again, so that
    -- a wait for replicas covers it.
    redis.call('DEL', KEYS[3])
    redis.call('SET', KEYS[3], mark, 'EX', ARGV[1])
    return 'cleared'
  end
end

-- A change of state whose first attempt is late must not be made to the session that comes after this clear.
local changes = redis.pcall('HMGET', KEYS[2], 'changes')
changes = string.match(changes[1] or '', '^%d*$') or ''
-- DEL comes first: a server without free memory rejects a script whose first write stores data.
redis.call('DEL', KEYS[1], KEYS[2])
-- The later time wins, because the clock of a new master may be behind after a failover. A time so far ahead that
-- commits ignore it must not win: they would then ignore this clear as well.
local ahead = earlier and tonumber(earlier) - tonumber(micros)
if ahead and ahead > 0 and ahead <= MARK_SKEW_MICROSECONDS then
  micros = earlier
end
ids = string.sub(ARGV[3] .. changes .. ids, 1, MAX_IDS * ID_LENGTH)
redis.call('SET', KEYS[3], micros .. '.' .. ids, 'EX', ARGV[1])
return 'cleared'
