-- Notes again when groups of sessions have ended. Keys: the ends of the groups. Arguments: time for which an end is
-- remembered, the times of the ends.
for at = 2, #KEYS do
  local ended = redis.call('GET', KEYS[at])
  local now = ARGV[at + 1]
  if not ended or tonumber(ended) < tonumber(now) then redis.call('SET', KEYS[at], now, 'PX', ARGV[2]) end
end
return #KEYS - 1
