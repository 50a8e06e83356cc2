-- What the scripts share that count what a user has used of a limit. A count is a string: the number of the window (the
-- minute or the day since 1970, in UTC), what was used in it, and the ids of the newest turns that used it, each with a
-- blank before it. So it counts once per turn.

local MINUTE_SECONDS, DAY_SECONDS = 60, 86400
local TURN_BYTES = 37
local MAX_TURNS = 16

-- Returns what was used in the window of this time, and the turns that used it.
local function used_of(key, window_seconds, now)
  local window, used, turns = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)(.*)$')
  if tonumber(window or '') == math.floor(now / window_seconds) then
    return tonumber(used), turns
  end
  return 0, ''
end

-- Counts an amount for a turn, unless it is counted already.
local function use(key, window_seconds, now, amount, turn)
  local used, turns = used_of(key, window_seconds, now)
  if string.find(turns, turn, 1, true) then
    return
  end
  turns = string.sub(' ' .. turn .. turns, 1, MAX_TURNS * TURN_BYTES)
  local window = math.floor(now / window_seconds)
  local count = string.format('%.0f %.0f', window, used + amount) .. turns
  redis.call('SET', key, count, 'EX', (window + 1) * window_seconds - now)
end

-- Leaves what was used, and forgets the turns that used it.
local function forget_turns(key)
  local used = string.match(redis.call('GET', key) or '', '^%d+ %d+')
  if used then
    redis.call('SET', key, used, 'KEEPTTL')
  end
end

-- Counts a turn of the minute, unless a limit is used up. 0 is no limit. Returns 'limited:' and the seconds until the user
-- may try again, or nil.
local function take(minute, day, most_turns, most_tokens, now, turn)
  most_turns, most_tokens = tonumber(most_turns), tonumber(most_tokens)
  local wait = 0
  if most_turns > 0 then
    local used, turns = used_of(minute, MINUTE_SECONDS, now)
    if string.find(turns, turn, 1, true) then
      return nil
    end
    if used >= most_turns then
      wait = MINUTE_SECONDS - now % MINUTE_SECONDS
    end
  end
  if most_tokens > 0 and used_of(day, DAY_SECONDS, now) >= most_tokens then
    wait = math.max(wait, DAY_SECONDS - now % DAY_SECONDS)
  end
  if wait > 0 then
    return string.format('limited:%d', wait)
  end
  if most_turns > 0 then
    use(minute, MINUTE_SECONDS, now, 1, turn)
  end
end
