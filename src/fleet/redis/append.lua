-- Appends a batch: live part, state and books at once, or nothing of it.
-- KEYS: books, live, hours, a prefix for the streams of the state.
-- ARGV: epoch, "log" | "direct" | "refill", gateway, after, last, until (ms), payload,
--       then for each stream of the state: "s" or "l", hour, entries.
local books, live, hours, prefix = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('HGET', books, 'epoch') ~= ARGV[1] then
  return {'epoch'}
end
local now = redis.call('TIME')
if ARGV[2] == 'log' then
  local own = redis.call('HGET', books, ARGV[3])
  if own == ARGV[5] and redis.call('EXISTS', live) == 1 then
    local newest = redis.call('XREVRANGE', live, '+', '-', 'COUNT', 1)
    if newest[1] then
      return {'ok', newest[1][1]}
    end
  end
  if own ~= ARGV[4] then
    return {'step', own}
  end
elseif ARGV[2] == 'direct' then
  if tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000) > tonumber(ARGV[6]) then
    return {'late'}
  end
end
local id = redis.call('XADD', live, 'MAXLEN', '~', 100000, '*', 'b', ARGV[7])
if #ARGV[7] > 8192 then
  redis.call('XTRIM', live, 'MAXLEN', '~', 20000)
end
for at = 8, #ARGV, 3 do
  local key = prefix .. ARGV[at] .. ':' .. ARGV[at + 1]
  redis.call('XADD', key, id, 'b', ARGV[at + 2])
  if redis.call('TTL', key) < 0 then
    redis.call('ZADD', hours, ARGV[at + 1], ARGV[at + 1])
    redis.call('EXPIREAT', key, (tonumber(ARGV[at + 1]) + 2) * 3600)
  end
end
redis.call('ZREMRANGEBYSCORE', hours, '-inf', math.floor(tonumber(now[1]) / 3600) - 3)
if ARGV[2] == 'log' then
  redis.call('HSET', books, ARGV[3], ARGV[5])
end
return {'ok', id}
