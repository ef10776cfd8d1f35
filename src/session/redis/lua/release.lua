-- Releases a lease, if this holder has it. Keys: the lease. Arguments: token, key of the session.
local lease = KEYS[2]
if redis.call('GET', lease) ~= ARGV[2] then return 0 end
redis.call('DEL', lease)
redis.call('PUBLISH', EVENTS, 'L' .. ORIGIN .. ARGV[3])
return 1
