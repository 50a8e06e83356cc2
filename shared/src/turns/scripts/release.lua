-- Undoes the claim of a turn that was refused before it began.
--
-- KEYS  record, index, then the idempotency key if there is one
-- ARGV  turn id, member of the index
-- Returns 'released'.

redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
if KEYS[3] and turn_of_key(KEYS[3]) == ARGV[1] then
  redis.call('DEL', KEYS[3])
end
return 'released'
