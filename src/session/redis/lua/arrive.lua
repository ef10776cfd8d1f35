-- Notes which server the replicas use. If the replicas have used another server before, this server may lack the
-- latest changes, so the replicas get time to bring back their changes. A server with sessions and without a name has
-- evicted the name, so it may be another server. Keys: the name of the server, the key of this time. Arguments: the
-- name of this server, the time in milliseconds.
local known = redis.call('GET', KEYS[2])
if known ~= ARGV[2] then
  redis.call('SET', KEYS[2], ARGV[2])
  if known or redis.call('EXISTS', INDEX) == 1 then
    redis.call('SET', KEYS[3], '', 'PX', ARGV[3])
  end
end
return redis.call('EXISTS', KEYS[3])
