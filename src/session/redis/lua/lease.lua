-- Gives a lease, unless another holder has it. While the replicas bring back what the server may lack, only a holder
-- of a lease gets the lease again. Keys: the lease, the key of this time. Arguments: token, duration, whether the
-- caller had the lease before. Returns {-1} or the number of milliseconds to wait, and whether a holder has the lease.
local lease, time_to_repeat = KEYS[2], KEYS[3]
local token, duration, again = ARGV[2], ARGV[3], ARGV[4] == '1'
if again and redis.call('GET', lease) == token then return {-1, 1} end
local wait = redis.call('PTTL', time_to_repeat)
if wait > 0 and not again then return {wait, 0} end
if redis.call('SET', lease, token, 'NX', 'PX', duration) then return {-1, 1} end
return {math.max(redis.call('PTTL', lease), 0), 1}
