-- Notes the times of last uses. Keys: the sessions. Arguments: pairs of a key and a time; the last argument is the
-- event for the other replicas. Returns the number of sessions, and the sessions that do not exist: the server was
-- emptied, or has evicted them.
local missing = {}
for at = 2, #ARGV - 1, 2 do
  if redis.call('EXISTS', session(ARGV[at])) == 1 then
    redis.call('ZADD', INDEX, 'GT', ARGV[at + 1], ARGV[at])
  else
    redis.call('ZREM', INDEX, ARGV[at])
    missing[#missing + 1] = ARGV[at]
  end
end
redis.call('PUBLISH', EVENTS, 'U' .. ORIGIN .. ARGV[#ARGV])
return {redis.call('ZCARD', INDEX), missing}
