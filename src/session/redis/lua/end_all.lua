-- Ends groups of sessions, and notes when they have ended. Keys: those of the groups, and the notice. Arguments:
-- reason, key of the notice or nothing, time to live of the notice, whether the order completes the notice, time of
-- the end, time for which the end is remembered, limit, the groups.
local why, notice, notice_ttl, completes, now = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local remembered, limit = ARGV[7], tonumber(ARGV[8])
if notice ~= '' and redis.call('EXISTS', notice) == 1 then return {'repeated', -1, {}} end
local ended, is_complete = {}, true
for at = 9, #ARGV do
  local group = ARGV[at]
  if group:sub(1, 1) ~= 'K' then
    -- A full server accepts a SET only after another write of the same script.
    redis.call('DEL', ended_at(group))
    redis.call('SET', ended_at(group), now, 'PX', remembered)
  end
  local keys
  if group:sub(1, 1) == 'A' then
    keys = redis.call('ZRANGE', INDEX, 0, limit - 1)
    is_complete = #keys < limit
  else
    keys = members(group)
  end
  for _, key in ipairs(keys) do
    if remove(key, why) then ended[#ended + 1] = key end
  end
end
if notice ~= '' and completes == '1' and is_complete then
  redis.call('SET', notice, '', 'PX', notice_ttl)
end
return {is_complete and 'ended' or 'more', redis.call('ZCARD', INDEX), ended}
