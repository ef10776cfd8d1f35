-- Stores a session of another store, unless this store already has the session. Arguments: key, value, time to
-- live, time of the last use, end of the lifetime.
if redis.call('EXISTS', session(ARGV[3])) == 1 then return 0 end
store(ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7])
return 1
