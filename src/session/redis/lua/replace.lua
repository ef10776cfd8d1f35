-- Replaces a session if it has this version. Arguments: key, version, value.
local name = session(ARGV[3])
local head = redis.call('GETRANGE', name, 0, 8)
if head == '' then return 'ended' end
if head:byte(1) ~= 1 then return 'newer' end
if head:sub(2) ~= ARGV[4] then return 'outdated' end
redis.call('SET', name, ARGV[5], 'KEEPTTL')
redis.call('PUBLISH', EVENTS, 'R' .. ORIGIN .. ARGV[3] .. ARGV[5]:sub(2, 9))
return 'stored'
