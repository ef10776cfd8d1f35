-- Releases a lease, if this holder has it. Arguments: key, token.
local name = session(ARGV[3]) .. ':l'
if redis.call('GET', name) ~= ARGV[4] then return 0 end
redis.call('DEL', name)
redis.call('PUBLISH', EVENTS, 'L' .. ORIGIN .. ARGV[3])
return 1
