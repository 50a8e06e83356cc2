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

-- A change of state whose first attempt is late must not be made to the session that comes after this clear.
local changes = redis.pcall('HMGET', KEYS[2], 'changes')
changes = string.match(changes[1] or '', '^%d*$') or ''
-- DEL comes first: a server without free memory rejects a script whose first write stores data.
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[4], ARGV[4])
redis.call('SET', KEYS[3], make_mark(now_micros, earlier, ARGV[3] .. changes .. ids), 'EX', ARGV[1])
return 'cleared'
