-- Counts the tokens of a turn.
--
-- KEYS  what the user has used of the day, erased
-- ARGV  turn id (36 bytes), number of tokens, the mark of the last erasure that the turn has read ('' for none, '?' if it
--       could not be read)
-- Returns 'spent'.

if not is_erased(KEYS[2], ARGV[3]) then
  use(KEYS[1], DAY_SECONDS, tonumber(redis.call('TIME')[1]), tonumber(ARGV[2]), ARGV[1])
end
return 'spent'
