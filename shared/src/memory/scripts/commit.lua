-- Stores messages at the head of a session's list, trims the list to whole turns, and updates the session's figures and
-- its place among the user's sessions: all or nothing, and once per turn id. A turn may take the place of a stored message
-- of the user and all after it. The first turn of a session may bring the greeting that it answers.
--
-- KEYS  messages, meta, cleared, sessions, erased; then, if the turn has a record, its record and text; then the
--       idempotency key if it has one
-- ARGV  turn id (36 bytes), beginning of the turn in Unix microseconds on Redis's clock, most messages to keep, time
--       to live in seconds, tokens to add, deadline of this request in Unix microseconds on Redis's clock, the marks of
--       the last clear and of the last erasure that the turn has read (each '' for none, '?' if it could not be read),
--       character id, id of the message to replace or '', the greeting that the turn answers as JSON or '', its tokens;
--       then, if the turn has a record: what the first event said, what the last event says besides the outcome, the
--       whole text, seconds to remember the turn, value of the key; then the messages as JSON, oldest first
-- Returns 'saved', 'duplicate', 'fenced', 'conflict' if another turn has the key or the message to replace is gone, 'lost'
-- if a reader has closed the record because the lease of the owner had run out, or 'late:' and the time in Unix
-- microseconds if the deadline has passed. 'saved' may be followed by notices, each after a colon: 'no_messages' or
-- 'no_figures' for what Redis had evicted of the session, 'ahead=' and the seconds by which the mark is too far ahead of
-- the clock.
--
-- Redis does not roll back a script that fails halfway. Everything that can fail therefore comes before the first
-- write, or is that write: a key of another type fails when it is read. The place among the sessions is written first: a
-- server without free memory rejects that, and a place without a session does no harm.

local ENTRY_BYTES = 48        -- id, ':', Unix seconds (10 digits until 2286), ';'
local MAX_ENTRIES = 128       -- turn ids kept, to detect a repeated commit
local ENTRY_TTL_SECONDS = 600
local FENCE_MICROSECONDS = 3600 * 1000000
local FIRST = KEYS[6] and 18 or 13 -- the first message in ARGV

local messages, meta, cleared, sessions, erased = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, began, most, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local character, replaced, greeting = ARGV[9], ARGV[10], ARGV[11]

local now_micros, now = clock()
local refused = late(ARGV[6], now_micros)
if refused then
  return refused
end

-- The record closes with the outcome that is returned, in this step, so that no reader is told anything else.
local record, text, key = KEYS[6], KEYS[7], KEYS[8]
local outcome = record and record_outcome(record)
local function close(with, own_key)
  if record then
    close_record(record, text, own_key, with, {
      start = ARGV[13], last = ARGV[14], text = ARGV[15], remember = ARGV[16], value = ARGV[17]})
  end
end
if outcome == 'saved' then
  -- An earlier attempt has stored the turn, and readers are told so, even if a clear has deleted it since. Something is
  -- written, so that a wait for replicas covers the turn.
  redis.call('EXPIRE', record, ARGV[16])
  return 'duplicate'
elseif outcome then
  return outcome == 'cleared' and 'fenced' or outcome
end
-- What was erased leaves nothing behind, no record either.
if is_erased(erased, ARGV[8], began, now_micros) then
  if record then
    redis.call('DEL', record, text)
  end
  return 'fenced'
end
if key then
  -- A turn that ended without being stored has no claim to the key.
  local other, _, unsaved = turn_of_key(key)
  if other and other ~= id and not unsaved then
    close('conflict')
    return 'conflict'
  end
end

local figures = redis.call('HMGET', meta, 'message_count', 'total_tokens', 'session_start', 'recent_turns', 'mark',
  'stored', 'trimmed')
local mark = redis.call('GET', cleared)
-- Redis may evict the mark before it expires. A session that was stored after the clear has a copy of it.
local known = string.sub(mark or figures[5] or '', 1, MARK_LENGTH)
local is_cleared, ahead = is_after(mark, known, ARGV[7], began, now_micros)
-- A mark outlives the fence, so for a turn that began before the fence a clear may have left no mark.
if is_cleared or now_micros - began > FENCE_MICROSECONDS then
  close('cleared', key)
  return 'fenced'
end
local notice = ahead and string.format(':ahead=%.0f', ahead) or ''

-- Redis evicts keys one by one. Without the messages the figures are of a session that is gone.
local length = redis.call('LLEN', messages)
if length == 0 and (tonumber(figures[6] or '') or 0) > 0 then
  figures = {false, false, false, false, figures[5]}
  notice = notice .. ':no_messages'
elseif length > 0 and not figures[1] and not figures[4] then
  -- Without the figures the ids of stored turns are gone too. An earlier attempt can only have stored the turn lately.
  for _, element in ipairs(redis.call('LRANGE', messages, 0, 9)) do
    if element == ARGV[#ARGV] then
      redis.call('EXPIRE', messages, ttl)
      close('saved', key)
      return 'duplicate'
    end
  end
  figures[1] = tostring(length)
  notice = notice .. ':no_figures'
end

local recent = figures[4] or ''
if #recent % ENTRY_BYTES ~= 0 then
  recent = ''
end
if string.find(recent, id, 1, true) then
  -- Something is written, so that a wait for replicas covers the turn.
  redis.call('EXPIRE', messages, ttl)
  redis.call('EXPIRE', meta, ttl)
  close('saved', key)
  return 'duplicate'
end

-- The messages from the head of the list to the one that is replaced, with it.
local removed = 0
if replaced ~= '' then
  local elements = redis.call('LRANGE', messages, 0, -1)
  removed = find_message(elements, replaced)
  if not removed or role_of(elements[removed]) ~= 'user' then
    close('conflict', key)
    return 'conflict'
  end
end
local newest_session, index_expires_in = read_sessions(sessions)

-- Entries are newest first, so expired ones are at the end.
local kept = math.min(#recent / ENTRY_BYTES, MAX_ENTRIES - 1)
while kept > 0 do
  local at = tonumber(string.sub(recent, kept * ENTRY_BYTES - 10, kept * ENTRY_BYTES - 1))
  if at and at >= now - ENTRY_TTL_SECONDS then
    break
  end
  kept = kept - 1
end
recent = id .. ':' .. string.format('%.0f', now) .. ';' .. string.sub(recent, 1, kept * ENTRY_BYTES)

-- Other writers store '4.0' or '1e3'. tonumber also accepts 'nan', 'inf' and '0x10': a value that is not a decimal
-- count restarts at 0.
local function figure(stored)
  local number = tonumber(string.match(stored or '', '^%s*[%d.eE+-]+%s*$') or '')
  if number and number >= 0 and number <= 9007199254740991 then
    return math.floor(number)
  end
  return 0
end
local added, tokens = #ARGV - FIRST + 1, tonumber(ARGV[5])
local is_greeted = greeting ~= '' and length == removed and figure(figures[7]) == 0 and most > added
if is_greeted then
  added, tokens = added + 1, tokens + tonumber(ARGV[12])
end
local message_count = string.format('%.0f', figure(figures[1]) + added)
local total_tokens = string.format('%.0f', figure(figures[2]) + tokens)

touch_session(sessions, character, ttl, now_micros, newest_session, index_expires_in)
if removed > 0 then
  redis.call('LTRIM', messages, removed, -1)
end
if is_greeted then
  redis.call('LPUSH', messages, greeting)
end
length = redis.call('LPUSH', messages, unpack(ARGV, FIRST))

local changed = {
  'state', 'ACTIVE',
  'last_active_at', string.format('%.0f', now),
  'message_count', message_count,
  'total_tokens', total_tokens,
  'session_start', figures[3] or string.format('%.0f', now),
  'recent_turns', recent,
  'mark', known}
if is_greeted then
  changed[#changed + 1] = 'greeting'
  changed[#changed + 1] = string.match(greeting, '(%d+)}}$')
end
if length > most and length > added then
  -- With the greeting goes the turn that it belongs to.
  local first_turn = is_greeting(redis.call('LINDEX', messages, -1)) and 3 or 1
  local before = length
  length = math.max(math.min(most, length - first_turn), added)
  redis.call('LTRIM', messages, 0, length - 1)
  -- The oldest message that remains must begin a turn.
  while length > added do
    if role_of(redis.call('LINDEX', messages, -1)) == 'user' then
      break
    end
    redis.call('RPOP', messages)
    length = length - 1
  end
  changed[#changed + 1] = 'trimmed'
  changed[#changed + 1] = string.format('%.0f', figure(figures[7]) + before - length)
end

redis.call('HSET', meta, 'stored', length, unpack(changed))
redis.call('EXPIRE', messages, ttl)
redis.call('EXPIRE', meta, ttl)
close('saved', key)
return 'saved' .. notice
