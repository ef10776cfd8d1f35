-- Replaces a session if it has this version. Keys: the session. Arguments: key, version, value.
local name = KEYS[2]
local head = redis.call('GETRANGE', name, 0, 8)
if head == '' then return 'ended' end
if head:byte(1) ~= 1 then return 'newer' end
if head:sub(2) ~= ARGV[3] then return 'outdated' end
redis.call('SET', name, ARGV[4], 'KEEPTTL')
redis.call('PUBLISH', EVENTS, 'R' .. ORIGIN .. ARGV[2] .. ARGV[4]:sub(2, 9))
return 'stored'
