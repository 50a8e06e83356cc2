-- What the scripts share that leave marks or compare them, or have a deadline. A clear, a rewind and an erasure each leave a mark, so that a
-- turn that began before is not stored after it.
--
-- A mark begins with a decimal number: the time of the change in Unix microseconds, a point, the id of the change, and the
-- ids of changes before it, newest first. So each change leaves another mark, whatever the clock says. The mark of an
-- erasure continues with a blank and what was erased.

local ID_LENGTH = 18
local MAX_IDS = 16
local MARK_LENGTH = 35 -- the part that is compared: microseconds (16 digits until 2286), '.', the newest id
local MARK_SKEW_MICROSECONDS = 5 * 1000000

-- Returns the time on Redis's clock in Unix microseconds, and in whole seconds.
local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2]), tonumber(time[1])
end

-- Returns 'late:' and the time if the deadline of a request has passed, otherwise nil. A request that was delayed on its way
-- must not take effect after its sender gave up.
local function late(deadline, now_micros)
  return now_micros > tonumber(deadline) and string.format('late:%.0f', now_micros) or nil
end

-- Returns what a key holds as a mark, its time, its ids, and what follows them.
local function read_mark(key)
  local mark = redis.pcall('GET', key)
  mark = type(mark) == 'string' and mark or ''
  local micros, ids, rest = string.match(mark, '^(%d+)%.?(%d*)(.*)$')
  return mark, micros, ids or '', rest or ''
end

local function has_id(ids, id)
  for at = 1, #ids, ID_LENGTH do
    if string.sub(ids, at, at + ID_LENGTH - 1) == id then
      return true
    end
  end
  return false
end

-- Returns the mark of a change that is made now, after the one of the time `earlier`, which may be nil.
local function make_mark(now_micros, earlier, ids)
  local micros = string.format('%.0f', now_micros)
  -- The later time wins, because the clock of a new master may be behind after a failover. A time so far ahead that
  -- commits ignore it must not win: they would then ignore this change as well.
  local ahead = earlier and tonumber(earlier) - now_micros
  if ahead and ahead > 0 and ahead <= MARK_SKEW_MICROSECONDS then
    micros = earlier
  end
  return micros .. '.' .. string.sub(ids, 1, MAX_IDS * ID_LENGTH)
end

-- Returns whether a change came after a turn began, and the seconds by which its mark is too far ahead of the clock.
-- `mark` is what the key holds, or false; `known` the part to compare, which the session may have a copy of; `seen` what
-- the turn has read ('' for none, '?' if it could not be read).
--
-- It did if there is another mark than the turn has read. Only where one of the two is missing, the times decide. After a
-- failover or a correction of the clock, a mark may lie ahead of this server's time. The time of one that is further
-- ahead than the difference that is allowed for decides nothing: it would keep out every turn until the clock has caught
-- up.
local function is_after(mark, known, seen, began, now_micros)
  local changed_at = tonumber(string.match(known, '^%d+') or '')
  local ahead = changed_at and changed_at - now_micros > MARK_SKEW_MICROSECONDS and (changed_at - now_micros) / 1000000
  if mark and seen ~= '?' then
    return known ~= seen, ahead
  end
  return changed_at and not ahead and changed_at >= began and known ~= seen, ahead
end

-- Returns whether the user's data was erased after a turn began that has read this mark.
local function is_erased(erased, seen, began, now_micros)
  local mark = redis.call('GET', erased)
  return (is_after(mark, string.sub(mark or '', 1, MARK_LENGTH), seen, tonumber(began), now_micros))
end
