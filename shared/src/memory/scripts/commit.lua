-- Stores messages at the head of a session's list, trims the list to whole turns, and updates the session's figures:
-- all or nothing, and once per turn id.
--
-- KEYS  messages, meta, cleared; then, if the turn has a record, its record and text; then the idempotency key if it
--       has one
-- ARGV  turn id (36 bytes), beginning of the turn in Unix microseconds on Redis's clock, most messages to keep, time
--       to live in seconds, tokens to add, deadline of this request in Unix microseconds on Redis's clock, the mark that
--       the turn has read ('' for none, '?' if it could not be read); then, if the turn has a record: what the first
--       event said, what the last event says besides the outcome, the whole text, seconds to remember the turn, value
--       of the key; then the messages as JSON, oldest first
-- Returns 'saved', 'duplicate', 'fenced', 'conflict' if another turn has the key, 'lost' if a reader has closed the
-- record because the lease of the owner had run out, or 'late:' and the time in Unix microseconds if the deadline has
-- passed. 'saved' may be followed by notices, each after a colon: 'no_messages' or 'no_figures' for what Redis had
-- evicted of the session, 'ahead=' and the seconds by which the mark is too far ahead of the clock.
--
-- Redis does not roll back a script that fails halfway. Everything that can fail therefore comes before the first
-- write, or is that write: a key of another type fails when it is read, or in LPUSH, which is the first write.

local ENTRY_BYTES = 48        -- id, ':', Unix seconds (10 digits until 2286), ';'
local MAX_ENTRIES = 128       -- turn ids kept, to detect a repeated commit
local ENTRY_TTL_SECONDS = 600
local FENCE_MICROSECONDS = 3600 * 1000000
local MARK_LENGTH = 35        -- of a mark: microseconds (16 digits until 2286), '.', the newest id; see clear.lua
local FIRST = KEYS[4] and 13 or 8 -- the first message in ARGV
local MARK_SKEW_MICROSECONDS = 5 * 1000000 -- the same in clear.lua

local messages, meta, cleared = KEYS[1], KEYS[2], KEYS[3]
local id, began, most, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

local time = redis.call('TIME')
local now = tonumber(time[1])
local now_micros = now * 1000000 + tonumber(time[2])

-- A request that was delayed on its way must not take effect after its sender gave up: it would store a turn behind
-- later ones.
if now_micros > tonumber(ARGV[6]) then
  return string.format('late:%.0f', now_micros)
end

-- The record closes with the outcome that is returned, in this step, so that no reader is told anything else.
local record, text, key = KEYS[4], KEYS[5], KEYS[6]
local outcome = record and record_outcome(record)
local function close(with)
  if record then
    close_record(record, text, with ~= 'conflict' and key, with, {
      start = ARGV[8], last = ARGV[9], text = ARGV[10], remember = ARGV[11], value = ARGV[12]})
  end
end
if outcome == 'saved' then
  -- An earlier attempt has stored the turn, and readers are told so, even if a clear has deleted it since. Something is
  -- written, so that a wait for replicas covers the turn.
  redis.call('EXPIRE', record, ARGV[11])
  return 'duplicate'
elseif outcome then
  return outcome == 'cleared' and 'fenced' or outcome
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
  'stored')
local seen = ARGV[7]
local mark = redis.call('GET', cleared)
-- Redis may evict the mark before it expires. A session that was stored after the clear has a copy of it.
local known = string.sub(mark or figures[5] or '', 1, MARK_LENGTH)

-- After a failover or a correction of the clock, a mark may lie ahead of this server's time. The time of one that is
-- further ahead than the difference that is allowed for decides nothing: it would keep out every turn until the clock
-- has caught up.
local notice = ''
local cleared_at = tonumber(string.match(known, '^%d+') or '')
if cleared_at and cleared_at - now_micros > MARK_SKEW_MICROSECONDS then
  notice = string.format(':ahead=%.0f', (cleared_at - now_micros) / 1000000)
  cleared_at = nil
end

-- A turn is not stored if the session was cleared after it began: if there is another mark than the one that it has
-- read. Only where one of the two is missing, the times decide. A mark outlives the fence, so for a turn that began
-- before the fence a clear may have left no mark; such a turn is not stored either.
local is_cleared
if mark and seen ~= '?' then
  is_cleared = known ~= seen
else
  is_cleared = cleared_at and cleared_at >= began and known ~= seen
end
if is_cleared or now_micros - began > FENCE_MICROSECONDS then
  close('cleared')
  return 'fenced'
end

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
      close('saved')
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
  close('saved')
  return 'duplicate'
end

-- Entries are newest first, so expired ones are at the end.
local kept = math.min(#recent / ENTRY_BYTES, MAX_ENTRIES - 1)
while kept > 0 do
  local at = tonumber(string.sub(recent, kept * ENTRY_BYTES - 10, kept * ENTRY_BYTES - 1))
  if at and at >= now - ENTRY_TTL_SECONDS then
    break
  end
  kept = kept - 1
end
recent = id .. ':' .. time[1] .. ';' .. string.sub(recent, 1, kept * ENTRY_BYTES)

-- Other writers store '4.0' or '1e3'. tonumber also accepts 'nan', 'inf' and '0x10': a value that is not a decimal
-- count restarts at 0.
local function figure(stored)
  local number = tonumber(string.match(stored or '', '^%s*[%d.eE+-]+%s*$') or '')
  if number and number >= 0 and number <= 9007199254740991 then
    return math.floor(number)
  end
  return 0
end
local added = #ARGV - FIRST + 1
local message_count = string.format('%.0f', figure(figures[1]) + added)
local total_tokens = string.format('%.0f', figure(figures[2]) + tonumber(ARGV[5]))

-- LPUSH comes first: a server without free memory rejects it, and nothing has been written then.
length = redis.call('LPUSH', messages, unpack(ARGV, FIRST))

if length > most then
  redis.call('LTRIM', messages, 0, most - 1)
  length = most
  -- The oldest message that remains must begin a turn. This service writes the role at a fixed place, so most
  -- elements need no JSON parser.
  while length > added do
    local oldest = redis.call('LINDEX', messages, -1)
    local role = string.match(oldest, '^{"msg_id":"[%w-]*","role":"(%l+)"')
    if not role then
      local readable, message = pcall(cjson.decode, oldest)
      if readable then
        role = type(message) == 'table' and message['role']
      else
        -- Half of a surrogate pair, for example, fails the parser. Quotes inside a string are escaped, so this match
        -- is a field.
        role = string.match(oldest, '"role"%s*:%s*"(%a+)"')
      end
    end
    if type(role) == 'string' and string.lower(role) == 'user' then
      break
    end
    redis.call('RPOP', messages)
    length = length - 1
  end
end

redis.call('HSET', meta,
  'state', 'ACTIVE',
  'last_active_at', time[1],
  'message_count', message_count,
  'total_tokens', total_tokens,
  'session_start', figures[3] or time[1],
  'recent_turns', recent,
  'mark', known,
  'stored', length)
redis.call('EXPIRE', messages, ttl)
redis.call('EXPIRE', meta, ttl)
close('saved')
return 'saved' .. notice
