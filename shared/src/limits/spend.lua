-- Counts the tokens of a turn.
--
-- KEYS  what the user has used of the day
-- ARGV  turn id (36 bytes), number of tokens
-- Returns 'spent'.

use(KEYS[1], DAY_SECONDS, tonumber(redis.call('TIME')[1]), tonumber(ARGV[2]), ARGV[1])
return 'spent'
