-- Ends a session, or one version of it. Arguments: key, reason, version or nothing.
local key, version = ARGV[3], ARGV[5]
if version ~= '' and redis.call('GETRANGE', session(key), 1, 8) ~= version then return {0, redis.call('ZCARD', INDEX)} end
return {remove(key, ARGV[4]) and 1 or 0, redis.call('ZCARD', INDEX)}
