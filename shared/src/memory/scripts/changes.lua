-- What a clear and a rewind share. Both have the same keys and the same first arguments.

local messages, meta, cleared, sessions = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local mark_ttl, deadline, id, character = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local now_micros = clock()
local mark, earlier, ids = read_mark(cleared)

-- Returns the reply to a request that is late, or that another attempt has done already; nil if it is to be done now.
local function reply_to_repeated(done)
  local reply = late(deadline, now_micros)
  if not reply and has_id(ids, id) then
    -- Turns may have been stored since. The mark is written again, so that a wait for replicas covers it.
    redis.call('DEL', cleared)
    redis.call('SET', cleared, mark, 'EX', mark_ttl)
    reply = done
  end
  return reply
end

-- Deletes the session and leaves a mark.
local function delete_session()
  -- A change of state whose first attempt is late must not be made to the session that comes after this.
  local changes = redis.pcall('HMGET', meta, 'changes')
  changes = string.match(changes[1] or '', '^%d*$') or ''
  -- DEL comes first: a server without free memory rejects a script whose first write stores data. The mark follows at
  -- once: without it a turn that runs would bring the session back.
  redis.call('DEL', messages, meta)
  redis.call('SET', cleared, make_mark(now_micros, earlier, id .. changes .. ids), 'EX', mark_ttl)
  redis.call('ZREM', sessions, character)
end

