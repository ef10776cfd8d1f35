-- Functions that all scripts share. The first key is the index of all sessions. PREFIX is the first part of
-- every key, with the hash tag, ORIGIN identifies the replica that has sent the command, and EVENTS is the channel
-- for changes. Keys of sessions are 16 raw bytes. The caller declares all keys that it knows. The other keys follow
-- from entries of indexes, and are in the same hash slot.
local INDEX, ORIGIN, EVENTS = KEYS[1], ARGV[1]:sub(1, 8), ARGV[1]:sub(9)
local PREFIX = INDEX:sub(1, -3)
local NONE = string.rep('\0', 16)

local function session(key) return PREFIX .. 's' .. key end
local function user(hash) return PREFIX .. 'u' .. hash end
local function provider_session(hash) return PREFIX .. 'p' .. hash end
local function ended_at(group) return PREFIX .. 'e' .. group end

-- Makes the key live for at least this number of milliseconds.
local function extend(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end

-- Stores a session after its entries in the indexes.
local function store(key, value, ttl, used, ends_at)
  redis.call('ZADD', INDEX, used, key)
  local of_user, of_provider = value:sub(18, 33), value:sub(34, 49)
  if of_user ~= NONE then
    redis.call('ZADD', user(of_user), ends_at, key)
    extend(user(of_user), ttl)
  end
  if of_provider ~= NONE then
    -- Nobody needs an order here, and a small score needs less memory.
    redis.call('ZADD', provider_session(of_provider), 0, key)
    extend(provider_session(of_provider), ttl)
  end
  redis.call('SET', session(key), value, 'PX', ttl)
end

-- Removes a session and its entries in the indexes. Returns true if the session existed.
local function remove(key, why)
  local name = session(key)
  local head = redis.call('GETRANGE', name, 0, 64)
  redis.call('ZREM', INDEX, key)
  if redis.call('DEL', name) == 0 then return false end
  if head:byte(1) == 1 then
    local of_user, of_provider = head:sub(18, 33), head:sub(34, 49)
    if of_user ~= NONE then redis.call('ZREM', user(of_user), key) end
    if of_provider ~= NONE then redis.call('ZREM', provider_session(of_provider), key) end
  end
  redis.call('PUBLISH', EVENTS, 'E' .. ORIGIN .. key .. why)
  return true
end

-- Returns the sessions of an index that exist. Removes the others from the index.
local function existing(index)
  local found = {}
  for _, key in ipairs(redis.call('ZRANGE', index, 0, -1)) do
    if redis.call('EXISTS', session(key)) == 1 then
      found[#found + 1] = key
    else
      redis.call('ZREM', index, key)
    end
  end
  return found
end

-- Returns the sessions of a group: its kind in one byte, and its hash or its keys.
local function members(group)
  local kind, rest = group:sub(1, 1), group:sub(2)
  if kind == 'U' then return existing(user(rest)) end
  if kind == 'P' then return existing(provider_session(rest)) end
  local found = {}
  if kind == 'W' then
    for _, key in ipairs(existing(user(rest))) do
      if redis.call('GETRANGE', session(key), 33, 48) == NONE then found[#found + 1] = key end
    end
  elseif kind == 'K' then
    for at = 1, #rest, 16 do
      local key = rest:sub(at, at + 15)
      if redis.call('EXISTS', session(key)) == 1 then found[#found + 1] = key end
    end
  end
  return found
end

