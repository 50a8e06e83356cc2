-- What the scripts share that keep the sorted set of a user's sessions: the ids of the characters by last activity.

-- Expired sessions are kept in the set for that long, because the time to live may have been longer before.
local INDEX_SECONDS = 30 * 86400

-- Reads what `touch_session` needs. It comes before the first write, because it fails for a key of another type.
local function read_sessions(sessions)
  local newest = redis.call('ZREVRANGE', sessions, 0, 0, 'WITHSCORES')
  return tonumber(newest[2] or '') or 0, redis.call('TTL', sessions)
end

-- Makes a session the newest. Each activity has a score of its own, whatever the clock says, so that a score is a place
-- in the list.
local function touch_session(sessions, character, ttl, now_micros, newest, expires_in)
  redis.call('ZADD', sessions, string.format('%.0f', math.max(now_micros, newest + 1)), character)
  redis.call('ZREMRANGEBYSCORE', sessions, '-inf',
    string.format('%.0f', now_micros - math.max(tonumber(ttl), INDEX_SECONDS) * 1000000))
  -- It lives as long as any of the sessions.
  if expires_in < tonumber(ttl) then
    redis.call('EXPIRE', sessions, ttl)
  end
end
