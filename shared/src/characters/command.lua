-- Runs one command, unless its deadline has passed.
--
-- KEYS  the command's key
-- ARGV  deadline of this request in Unix microseconds on Redis's clock, name of the command, its arguments after the key
-- Returns the command's reply, or 'late:' and the time in Unix microseconds if the deadline has passed.

local refused = late(ARGV[1], (clock()))
if refused then
  return refused
end
return redis.call(ARGV[2], KEYS[1], unpack(ARGV, 3))
