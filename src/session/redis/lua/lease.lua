-- Gives a lease, unless another holder has it. Arguments: key, token, duration.
local name = session(ARGV[3]) .. ':l'
if redis.call('SET', name, ARGV[4], 'NX', 'PX', ARGV[5]) then return -1 end
return math.max(redis.call('PTTL', name), 0)
