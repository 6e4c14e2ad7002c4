"""What a Valkey or Redis server does at once for a store: scripts in Lua, each of which is a transaction.

A session is the hash `gatestream:s:MEMBER`, MEMBER its tenant, model and name with a NUL between them: epoch, owner,
wanted, live, room, written, meaning, revision, and its checkpoints in two slots, 0 and 1: sequence `0`, position `p0`,
checksum `c0`, state `s0`. Beside them: `index` (members, in order), `parked` and `closed` (by time), `owned:OWNER`,
`wanted:OWNER`, `owners`, `beats`, and by tenant `sessions` and `bytes`.
"""

from typing import Final

PREFIX: Final = "gatestream:"

_COMMON: Final = """
local P = 'gatestream:'
local call = redis.call

-- Says who has a session and what it is, and keeps the lists by which it is found.
local function set(member, owner, wanted, live, room, written)
  local key = P .. 's:' .. member
  local tenant = string.match(member, '^([^%z]*)%z')
  local was = call('HMGET', key, 'owner', 'wanted', 'live', 'room')
  local before = was[1] or ''
  if before ~= '' then call('SREM', P .. 'owned:' .. before, member) end
  if was[2] == '1' then call('SREM', P .. 'wanted:' .. before, member) end
  if owner ~= '' then
    call('SADD', P .. 'owned:' .. owner, member)
    call('SADD', P .. 'owners', owner)
  end
  if wanted == '1' then call('SADD', P .. 'wanted:' .. owner, member) end
  call('ZREM', P .. 'parked', member)
  call('ZREM', P .. 'closed', member)
  if live == '1' then
    call('ZADD', P .. 'index', 0, member)
    if owner == '' then call('ZADD', P .. 'parked', written, member) end
  else
    call('ZREM', P .. 'index', member)
    call('ZADD', P .. 'closed', written, member)
  end
  local count = call('HINCRBY', P .. 'sessions', tenant, tonumber(live) - tonumber(was[3] or 0))
  call('HINCRBY', P .. 'bytes', tenant, tonumber(room) - tonumber(was[4] or 0))
  if count == 0 then
    call('HDEL', P .. 'sessions', tenant)
    call('HDEL', P .. 'bytes', tenant)
  end
  call('HSET', key, 'owner', owner, 'wanted', wanted, 'live', live, 'room', room, 'written', written)
  call('HINCRBY', key, 'revision', 1)
end

local function forget_states(key)
  call('HDEL', key, '0', 'p0', 'c0', 's0', '1', 'p1', 'c1', 's1')
end

local function finish(member, written, seconds)
  set(member, '', '0', '0', '0', written)
  local key = P .. 's:' .. member
  forget_states(key)
  call('EXPIRE', key, seconds)
end

local function now()
  local time = call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end
"""

READ: Final = (
    _COMMON
    + """
local owner = call('HGET', KEYS[1], 'owner')
local beat = owner and call('ZSCORE', P .. 'beats', owner)
local silent = beat and now() - tonumber(beat)
-- A beat that is to come is of before the clock was put back: an owner that lives beats anew within a second, and to
-- fence one that does is safe.
local lives = silent and silent >= 0 and silent < tonumber(ARGV[1])
return {call('HGETALL', KEYS[1]), lives and 1 or 0}
"""
)
"""KEYS: a session. ARGV: seconds of silence. The hash, and whether its owner lives."""

KEEP: Final = (
    _COMMON
    + """
if (call('HGET', KEYS[1], 'revision') or '') ~= ARGV[1] then return 0 end
set(ARGV[2], ARGV[3], ARGV[4], '1', ARGV[5], ARGV[6])
call('HSET', KEYS[1], 'epoch', ARGV[7], 'meaning', ARGV[8])
call('PERSIST', KEYS[1])
forget_states(KEYS[1])
for i = 9, #ARGV, 4 do
  local slot = (i - 9) / 4
  call('HSET', KEYS[1], slot, ARGV[i], 'p' .. slot, ARGV[i + 1], 'c' .. slot, ARGV[i + 2], 's' .. slot, ARGV[i + 3])
end
return 1
"""
)
"""KEYS: a session. ARGV: the revision that it has to have, its member, owner, wanted, room, written, epoch, meaning,
and of each checkpoint the sequence, position, checksum and state. Whether it had that revision."""

WANT: Final = (
    _COMMON
    + """
local was = call('HMGET', KEYS[1], 'revision', 'owner')
if was[1] ~= ARGV[1] then return 0 end
call('HSET', KEYS[1], 'wanted', '1')
call('HINCRBY', KEYS[1], 'revision', 1)
call('SADD', P .. 'wanted:' .. was[2], ARGV[2])
return 1
"""
)
"""KEYS: a session. ARGV: the revision that it has to have, its member. Whether it had that revision."""

WRITE: Final = """
local call = redis.call
local width = #ARGV[4] / math.max(#KEYS, 1)
local function text(number) return string.format('%.0f', number) end
local out = {}
for i = 1, #KEYS do
  local epoch, sequence, position, acknowledged, checksum = struct.unpack('<i8i8i8i8i8', ARGV[3], 40 * (i - 1) + 1)
  local has = call('HMGET', KEYS[i], 'owner', 'epoch', 'live', 'wanted', '0', '1')
  if ARGV[1] ~= '' and has[1] == ARGV[1] and has[2] == text(epoch) and has[3] == '1' then
    local zero, one = has[5] and tonumber(has[5]), has[6] and tonumber(has[6])
    local tip = math.max(zero or -1, one or -1)
    -- Where it goes, and whether it alone stays: as rules.written.
    local only = acknowledged >= sequence and sequence >= tip
    local slot
    if sequence == zero then slot = 0
    elseif sequence == one then slot = 1
    elseif not one then slot = 1
    elseif not zero then slot = 0
    elseif sequence > tip then slot = ((zero > one) == (acknowledged >= tip)) and 1 or 0
    elseif acknowledged >= sequence or sequence < math.min(zero, one) then slot = (zero > one) and 1 or 0
    end
    local stay = {[0] = has[5], [1] = has[6]}
    if slot then
      stay[slot] = text(sequence)
      call('HSET', KEYS[i], slot, stay[slot], 'p' .. slot, text(position), 'c' .. slot, text(checksum),
        's' .. slot, string.sub(ARGV[4], width * (i - 1) + 1, width * i))
      if only then
        local other = 1 - slot
        call('HDEL', KEYS[i], other, 'p' .. other, 'c' .. other, 's' .. other)
        stay[other] = false
      end
    end
    call('HSET', KEYS[i], 'written', ARGV[2])
    call('HINCRBY', KEYS[i], 'revision', 1)
    local anchor = stay[0] or stay[1]
    if stay[0] and stay[1] and tonumber(stay[1]) < tonumber(stay[0]) then anchor = stay[1] end
    out[2 * i - 1], out[2 * i] = anchor, has[4]
  else
    out[2 * i - 1], out[2 * i] = '-1', '0'
  end
end
return out
"""
"""KEYS: sessions. ARGV: the owner, the time, for each as five integers of 64 bits its epoch, sequence, position, what
is acknowledged and checksum, and all states. For each its durable sequence, -1 where it was not taken, and whether
another owner asks for it."""

RELEASE: Final = (
    _COMMON
    + """
for i = 1, #KEYS do
  local has = call('HMGET', KEYS[i], 'owner', 'epoch', 'live', 'room', 'written')
  local epoch, member = ARGV[2 * i], ARGV[2 * i + 1]
  if has[1] == ARGV[1] and has[3] == '1' and (epoch == '' or has[2] == epoch) then
    set(member, '', '0', '1', has[4], has[5])
  end
end
return 0
"""
)
"""KEYS: sessions. ARGV: the owner, and for each its epoch, empty where any is meant, and its member."""

END: Final = (
    _COMMON
    + """
local out = {}
for i = 1, #KEYS do
  local has = call('HMGET', KEYS[i], 'epoch', 'live')
  local epoch, member = ARGV[2 * i + 1], ARGV[2 * i + 2]
  if has[2] == '1' and (epoch == '' or has[1] == epoch) then
    finish(member, ARGV[1], ARGV[2])
    out[i] = 1
  else
    out[i] = 0
  end
end
return out
"""
)
"""KEYS: sessions. ARGV: the time, the seconds that their epochs are remembered, and for each its epoch, empty where
any is meant, and its member. For each whether it was there."""

BEAT: Final = (
    _COMMON
    + """
call('ZADD', P .. 'beats', now(), ARGV[1])
call('SADD', P .. 'owners', ARGV[1])
return call('SRANDMEMBER', P .. 'wanted:' .. ARGV[1], ARGV[2])
"""
)
"""ARGV: the owner, and how many at most. Members of its sessions that others ask for."""

DEAD: Final = (
    _COMMON
    + """
local out = {}
for _, owner in ipairs(call('SMEMBERS', P .. 'owners')) do
  local beat = call('ZSCORE', P .. 'beats', owner)
  if not beat or math.abs(now() - tonumber(beat)) > tonumber(ARGV[1]) then out[#out + 1] = owner end
end
return out
"""
)
"""ARGV: seconds. The owners that have been silent for longer, or whose beat is of a clock that was put back by more."""

PRUNE: Final = (
    _COMMON
    + """
local found = call('ZRANGEBYSCORE', P .. ARGV[1], '-inf', '(' .. ARGV[2], 'LIMIT', 0, ARGV[3])
for _, member in ipairs(found) do
  local key = P .. 's:' .. member
  -- A closed one may have expired.
  if call('EXISTS', key) == 1 and call('HGET', key, 'live') == '1' then finish(member, '0', 1) end
  call('DEL', key)
  call('ZREM', P .. 'closed', member)
  call('ZREM', P .. 'parked', member)
end
return #found
"""
)
"""ARGV: parked or closed, the time, and how many at most. How many that are older were forgotten."""
