-- Stores a new session, and ends the sessions that it replaces and the sessions above the limit of its
-- user. Keys: the session, its indexes, the ends of its groups, the replaced sessions. Arguments: key, value, time to
-- live, time of the last use, end of the lifetime, limit, start of the login, reason for replaced sessions, reason for
-- sessions above the limit, number of groups, the groups, the replaced sessions.
local key, value, ttl, used, ends_at = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local limit, begun_at, replaced_why, above_why = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], ARGV[10]
local groups = tonumber(ARGV[11])
for at = 12, 11 + groups do
  local ended = redis.call('GET', ended_at(ARGV[at]))
  if ended and begun_at < tonumber(ended) then return {'ended', -1, {}, {}} end
end
local replaced, above = {}, {}
for at = 12 + groups, #ARGV do
  if remove(ARGV[at], replaced_why) then replaced[#replaced + 1] = ARGV[at] end
end
local of_user_hash = value:sub(18, 33)
if of_user_hash ~= NONE and redis.call('ZCARD', user(of_user_hash)) >= limit then
  local before = existing(user(of_user_hash))
  for at = 1, #before + 1 - limit do
    remove(before[at], above_why)
    above[at] = before[at]
  end
end
store(key, value, ttl, used, ends_at)
return {'stored', redis.call('ZCARD', INDEX), replaced, above}
