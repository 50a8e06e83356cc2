-- Removes a message and all after it, and leaves a mark as a clear does: once per rewind. Whole turns go, because half of
-- one is never kept: with a reply goes the message that it answers, and with the first message of the user the greeting.
--
-- KEYS  messages, meta, cleared, sessions
-- ARGV  time to live of the mark in seconds, deadline of this request in Unix microseconds on Redis's clock, id of the
--       rewind (18 digits), character id, id of the message
-- Returns 'rewound', 'unknown' if there is no such message, or 'late:' and the time in Unix microseconds if the deadline
-- has passed.

local reply = reply_to_repeated('rewound')
if reply then
  return reply
end
local elements = redis.call('LRANGE', messages, 0, -1)
local removed = find_message(elements, ARGV[5])
if not removed then
  return 'unknown'
end
while removed < #elements and role_of(elements[removed]) ~= 'user' do
  removed = removed + 1
end
if is_greeting(elements[removed + 1]) then
  removed = removed + 1
end

if removed == #elements then
  -- Nothing is left, so this is a clear.
  delete_session()
  return 'rewound'
end
-- LTRIM comes first: a server without free memory rejects a script whose first write stores data.
redis.call('LTRIM', messages, removed, -1)
mark = make_mark(now_micros, earlier, id .. ids)
redis.call('SET', cleared, mark, 'EX', mark_ttl)
if redis.call('EXISTS', meta) == 1 then
  redis.call('HSET', meta, 'mark', string.sub(mark, 1, MARK_LENGTH), 'stored', #elements - removed)
end
return 'rewound'
