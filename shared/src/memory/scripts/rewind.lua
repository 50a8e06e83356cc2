-- Removes a message and all after it, and leaves a mark as a clear does: once per rewind. Whole turns go, because half of
-- one is never kept: with a reply goes the message that it answers.
--
-- KEYS  messages, meta, cleared, sessions
-- ARGV  time to live of the mark in seconds, deadline of this request in Unix microseconds on Redis's clock, id of the
--       rewind (18 digits), character id, id of the message
-- Returns 'rewound', 'unknown' if there is no such message, or 'late:' and the time in Unix microseconds if the deadline
-- has passed.

local now_micros = clock()
-- A request that was delayed on its way must not remove turns that began after its sender gave up.
if now_micros > tonumber(ARGV[2]) then
  return string.format('late:%.0f', now_micros)
end

local mark, earlier, ids = read_mark(KEYS[3])
if has_id(ids, ARGV[3]) then
  -- Another attempt has done it. The mark is written again, so that a wait for replicas covers it.
  redis.call('DEL', KEYS[3])
  redis.call('SET', KEYS[3], mark, 'EX', ARGV[1])
  return 'rewound'
end

local elements = redis.call('LRANGE', KEYS[1], 0, -1)
local removed = find_message(elements, ARGV[5])
if not removed then
  return 'unknown'
end
while removed < #elements and role_of(elements[removed]) ~= 'user' do
  removed = removed + 1
end

if removed == #elements then
  -- Nothing is left, so this is a clear.
  delete_session(now_micros, earlier, ids)
  return 'rewound'
end
-- LTRIM comes first: a server without free memory rejects a script whose first write stores data.
redis.call('LTRIM', KEYS[1], removed, -1)
mark = make_mark(now_micros, earlier, ARGV[3] .. ids)
redis.call('SET', KEYS[3], mark, 'EX', ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HSET', KEYS[2], 'mark', string.sub(mark, 1, MARK_LENGTH), 'stored', #elements - removed)
end
return 'rewound'
