-- Notes the times of last uses. Arguments: pairs of a key and a time; the last argument is the event for the
-- other replicas.
for at = 3, #ARGV - 1, 2 do
  redis.call('ZADD', INDEX, 'XX', 'GT', ARGV[at + 1], ARGV[at])
end
redis.call('PUBLISH', EVENTS, 'U' .. ORIGIN .. ARGV[#ARGV])
return redis.call('ZCARD', INDEX)
