-- Stores a session of another store, unless this store already has the session. Keys: the session, its indexes.
-- Arguments: key, value, time to live, time of the last use, end of the lifetime.
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
store(ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
return 1
