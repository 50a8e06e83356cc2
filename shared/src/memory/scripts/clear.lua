-- Deletes a session and leaves a mark, so that a turn that began before it is not stored afterwards: once per clear.
--
-- KEYS  messages, meta, cleared, sessions
-- ARGV  time to live of the mark in seconds, deadline of this request in Unix microseconds on Redis's clock, id of the
--       clear (18 digits), character id
-- Returns 'cleared', or 'late:' and the time in Unix microseconds if the deadline has passed.

local reply = reply_to_repeated('cleared')
if reply then
  return reply
end
delete_session()
return 'cleared'
