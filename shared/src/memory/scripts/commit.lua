-- Stores messages at the head of a session's list, trims it to whole turns, and keeps the session's figures, all or
-- nothing and once for an id.
--
-- KEYS  messages, meta, cleared
-- ARGV  id (36 bytes), when the turn began in microseconds on Redis's clock, most messages to keep, seconds to live,
--       tokens to add, until when this may be done in microseconds on Redis's clock, then the messages as JSON,
--       oldest first
-- Gives 'saved', 'duplicate', 'fenced', or 'late:' and the time.
--
-- A script that fails half way is not rolled back, so everything that can fail comes before the first write, or is it: a key
-- that holds something of another type fails the read of it, or the LPUSH, which is the first write.

local ENTRY_BYTES = 48        -- id, ':', Unix seconds (10 digits until 2286), ';'
local MOST_ENTRIES = 128
local REMEMBERED_SECONDS = 600
local FENCE_MICROSECONDS = 3600 * 1000000

local messages, meta, cleared = KEYS[1], KEYS[2], KEYS[3]
local id, began, most, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

local time = redis.call('TIME')
local now = tonumber(time[1])
local now_micros = now * 1000000 + tonumber(time[2])

-- A request that was held up on its way must not do anything once its sender has given it up: it would put a turn behind
-- later ones.
if now_micros > tonumber(ARGV[6]) then
  return string.format('late:%.0f', now_micros)
end

-- What began before a clear stays out. The mark of a clear lives as long as the fence, so what began earlier than that
-- cannot be told from what was cleared, and stays out as well.
local cleared_at = tonumber(redis.call('GET', cleared) or '')
if (cleared_at and cleared_at >= began) or now_micros - began > FENCE_MICROSECONDS then
  return 'fenced'
end

local figures = redis.call('HMGET', meta, 'message_count', 'total_tokens', 'session_start', 'recent_turns')
local recent = figures[4] or ''
if #recent % ENTRY_BYTES ~= 0 then
  recent = ''
end
if string.find(recent, id, 1, true) then
  return 'duplicate'
end

-- Newest first, so those that are too old are at the end.
local kept = math.min(#recent / ENTRY_BYTES, MOST_ENTRIES - 1)
while kept > 0 do
  local at = tonumber(string.sub(recent, kept * ENTRY_BYTES - 10, kept * ENTRY_BYTES - 1))
  if at and at >= now - REMEMBERED_SECONDS then
    break
  end
  kept = kept - 1
end
recent = id .. ':' .. time[1] .. ';' .. string.sub(recent, 1, kept * ENTRY_BYTES)

-- Others store '4.0' or '1e3'. Lua reads 'nan', 'inf' and '0x10' as well: what is no decimal count is begun anew.
local function figure(stored)
  local number = tonumber(string.match(stored or '', '^%s*[%d.eE+-]+%s*$') or '')
  if number and number >= 0 and number <= 9007199254740991 then
    return math.floor(number)
  end
  return 0
end
local added = #ARGV - 6
local message_count = string.format('%.0f', figure(figures[1]) + added)
local total_tokens = string.format('%.0f', figure(figures[2]) + tonumber(ARGV[5]))

-- The first write is one that a full server refuses, so a refusal leaves nothing behind.
local length = redis.call('LPUSH', messages, unpack(ARGV, 7))

if length > most then
  redis.call('LTRIM', messages, 0, most - 1)
  length = most
  -- The oldest message that stays begins a turn. Nearly all say so where this service writes it, and need no parser.
  while length > added do
    local oldest = redis.call('LINDEX', messages, -1)
    local role = string.match(oldest, '^{"msg_id":"[%w-]*","role":"(%l+)"')
    if not role then
      local readable, message = pcall(cjson.decode, oldest)
      if readable then
        role = type(message) == 'table' and message['role']
      else
        -- Half of a surrogate pair, for example. Quotes inside a string are escaped, so this is a field.
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
  'recent_turns', recent)
redis.call('EXPIRE', messages, ttl)
redis.call('EXPIRE', meta, ttl)
return 'saved'
