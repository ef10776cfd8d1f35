-- Ends a session, or one version of it. Keys: the session. Arguments: key, reason, version or nothing.
local key, version = ARGV[2], ARGV[4]
if version ~= '' and redis.call('GETRANGE', KEYS[2], 1, 8) ~= version then
  return {0, redis.call('ZCARD', INDEX)}
end
return {remove(key, ARGV[3]) and 1 or 0, redis.call('ZCARD', INDEX)}
