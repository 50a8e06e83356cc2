-- Deletes a session and leaves a mark, for a clear and for a rewind that leaves nothing. Both have the same keys and the
-- same first arguments.
local function delete_session(now_micros, earlier, ids)
  local messages, meta, cleared, sessions = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
  local mark_ttl, id, character = ARGV[1], ARGV[3], ARGV[4]
  -- A change of state whose first attempt is late must not be made to the session that comes after this.
  local changes = redis.pcall('HMGET', meta, 'changes')
  changes = string.match(changes[1] or '', '^%d*$') or ''
  -- DEL comes first: a server without free memory rejects a script whose first write stores data. The mark follows at
  -- once: without it a turn that runs would bring the session back.
  redis.call('DEL', messages, meta)
  redis.call('SET', cleared, make_mark(now_micros, earlier, id .. changes .. ids), 'EX', mark_ttl)
  redis.call('ZREM', sessions, character)
end

