-- Makes the shared log if there is none, and tells about it.
-- KEYS: books, live. ARGV: an epoch, should one be needed; gateway.
redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1])
local newest = '0-0'
if redis.call('EXISTS', KEYS[2]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[2])
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then
      newest = info[at + 1]
    end
  end
end
local now = redis.call('TIME')
return {redis.call('HGET', KEYS[1], 'epoch'), redis.call('HGET', KEYS[1], ARGV[2]), newest, now[1], now[2]}
