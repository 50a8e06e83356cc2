-- Deletes a session and leaves a mark, so that a turn that began before it is not stored afterwards: once per clear.
--
-- KEYS  messages, meta, cleared, sessions
-- ARGV  time to live of the mark in seconds, deadline of this request in Unix microseconds on Redis's clock, id of the
--       clear (18 digits), character id
-- Returns 'cleared', or 'late:' and the time in Unix microseconds if the deadline has passed.

local now_micros = clock()
-- A request that was delayed on its way must not delete turns that began after its sender gave up.
if now_micros > tonumber(ARGV[2]) then
  return string.format('late:%.0f', now_micros)
end

local mark, earlier, ids = read_mark(KEYS[3])
if has_id(ids, ARGV[3]) then
  -- Another attempt has cleared the session, and turns may have been stored since. The mark is written again, so that
  -- a wait for replicas covers it.
  redis.call('DEL', KEYS[3])
  redis.call('SET', KEYS[3], mark, 'EX', ARGV[1])
  return 'cleared'
end

delete_session(now_micros, earlier, ids)
return 'cleared'
