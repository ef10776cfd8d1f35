-- Ends sessions that nobody has used since a time. Arguments: the time, reason, limit.
local keys = redis.call('ZRANGEBYSCORE', INDEX, '-inf', ARGV[2], 'LIMIT', 0, ARGV[4])
local ended = {}
for _, key in ipairs(keys) do
  local format = redis.call('GETRANGE', session(key), 0, 0)
  if format == '' or format:byte(1) == 1 then
    if remove(key, ARGV[3]) then ended[#ended + 1] = key end
  else
    -- A newer version of the gateway has replaced the session, and has an index of its own.
    redis.call('ZREM', INDEX, key)
  end
end
return {#keys, redis.call('ZCARD', INDEX), ended}
