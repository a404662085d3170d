"""The names of keys and channels in Redis, and the Lua scripts: each is one atomic step.

Everything that belongs to a topic is in one slot of a cluster, because the names have the topic in braces:

=======================  =====================================================================================
``app:{=news}``          the channel
``app:{=news}:stream``   the messages; the ID of an entry is ``OFFSET-0``, without gaps
``app:{=news}:topic``    a hash about the topic, see below
``app:{=news}:by:ID``    the last number of a publisher
``app:{=news}:members``  a hash with the number of members of each session
``app:node:SESSION``     exists while the session is alive
=======================  =====================================================================================

The hash of a topic has these fields:

* ``epoch``, and ``head``: the offset of the last message.
* ``run``: the random ``run_id`` of the server that has written the topic. If it is another one now, the server was
  restarted or replaced, and may have lost its last messages. Then a new epoch begins, whose offsets continue at
  ``head``. If the server has no append-only file, it begins with a marker of a loss, because nobody may be left who has
  seen the lost messages.
* ``forks``: the epochs before, each with the offset at which it ended. A position in one of these is valid if it is not
  behind that end: so a restart that loses nothing invalidates nothing, and one that loses something invalidates exactly
  the positions behind the loss, even if the same offsets are in use again.
* ``gap``: the last epoch to whose stream a marker of a loss was added, and the offset of the marker, see ``OPEN``.
* ``ages``: times, each with the ``head`` at that time, from which follows which messages are too old.
"""

from __future__ import annotations

import hashlib
from binascii import crc_hqx

import attrs

__all__ = ["FETCH", "OPEN", "PUBLISH", "SCRIPTS", "Names", "Script", "slot_of"]

#: How many forks a topic remembers.
_MAX_FORKS = 8

# Every script begins with this. KEYS: the stream, the hash of the topic. ARGV: an epoch that is new, and the
# milliseconds for which to keep an unused topic.
_BEGIN = f"""
local info = redis.pcall('INFO', 'server')
if type(info) ~= 'string' then
    return redis.error_reply('NOPERM the user must be allowed the command INFO, without which losses are not noticed')
end
local run = string.match(info, 'run_id:(%x+)') or ''
local topic = redis.call('HMGET', KEYS[2], 'epoch', 'head', 'run', 'forks')
local epoch, head, forks = topic[1], tonumber(topic[2] or '0'), topic[4] or ''
local function add_marker()
    head = head + 1
    local offset = string.format('%d', head)
    redis.call('XADD', KEYS[1], offset .. '-0', 'by', ':0', 'data', 'l')
    redis.call('HSET', KEYS[2], 'head', offset, 'gap', epoch .. '=' .. offset)
    if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
end
if not epoch then
    epoch, head, forks = ARGV[1], 0, ''
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[2], 'epoch', epoch, 'head', head, 'run', run)
elseif topic[3] ~= run then
    forks = forks .. epoch .. '=' .. string.format('%d', head) .. ';'
    local _, count = string.gsub(forks, ';', '')
    while count > {_MAX_FORKS} do
        forks = string.gsub(forks, '^[^;]*;', '')
        count = count - 1
    end
    epoch = ARGV[1]
    redis.call('HSET', KEYS[2], 'epoch', epoch, 'run', run, 'forks', forks)
    if not string.find(redis.call('INFO', 'persistence'), 'aof_enabled:1', 1, true) then add_marker() end
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
"""

# Set `start` to the offset at which reading begins, and `lost` to 1 if messages are missing before it. ARGV[3]: the
# epoch of the position; empty to begin at the end. ARGV[4]: its offset. `gone` tells whether the server has lost
# messages before the position.
_RESOLVE = """
local first = head + 1 - redis.call('XLEN', KEYS[1])
local start, lost, gone = tonumber(ARGV[4]), 0, false
if ARGV[3] == '' then
    start = head
else
    local limit
    if ARGV[3] == epoch then
        limit = head
    else
        for fork, offset in string.gmatch(forks, '([^=;]*)=(%d+);') do
            if fork == ARGV[3] then limit = tonumber(offset) end
        end
    end
    if not limit then
        start, lost = first - 1, 1
    elseif start > limit then
        start, lost, gone = limit, 1, true
    end
    if start < first - 1 then
        start, lost = first - 1, 1
    end
end
"""


@attrs.frozen
class Script:
    """A Lua script.

    Attributes:
        text: The source text.
        sha: Its SHA-1 in hexadecimal, by which Redis knows it.
    """

    text: str
    sha: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


#: Create a topic if it does not exist, and resolve a position. ARGV[5]: PUBLISH or SPUBLISH. ARGV[6]: the channel.
#: Returns epoch, head, start and lost.
#:
#: If the server has lost messages before the position, those who are further behind have missed them, too, and could
#: not notice. So this adds a marker of a loss to the stream, once in each epoch. ``FETCH`` does not: its positions come
#: from clients, and may be invented.
OPEN = Script(
    _BEGIN
    + _RESOLVE
    + """
if gone then
    local marked, marker = string.match(redis.call('HGET', KEYS[2], 'gap') or '', '(.*)=(%d+)')
    if marked ~= epoch then
        add_marker()
        marker = head
        redis.call(ARGV[5], ARGV[6], '')
    end
    -- The caller learns of the loss from `lost` already.
    if tonumber(marker) == start + 1 then start = start + 1 end
end
return {epoch, head, start, lost}
"""
)

#: Return messages after a position. ARGV[5]: a number of bytes, of which a message takes 200 besides its data. Returns
#: epoch, head, start, lost, and for each message two values: its author and its data.
FETCH = Script(
    _BEGIN
    + _RESOLVE
    + """
local result, size, last = {epoch, head, start, lost}, 0, start
repeat
    local entries = redis.call('XRANGE', KEYS[1], string.format('%d-0', last + 1), '+', 'COUNT', 16)
    for _, entry in ipairs(entries) do
        local fields = entry[2]
        size = size + #fields[4] + 200
        if last > start and size > tonumber(ARGV[5]) then return result end
        result[#result + 1] = fields[2]
        result[#result + 1] = fields[4]
        last = last + 1
    end
until #entries < 16
return result
"""
)

#: Add messages, unless their numbers show that they were added before, and notify the subscribers. KEYS[3]: the last
#: number of the publisher. ARGV[3]: maximum number of messages. ARGV[4]: maximum age in milliseconds. ARGV[5]: the
#: publisher. ARGV[6]: PUBLISH or SPUBLISH. ARGV[7]: the channel. ARGV[8]: the milliseconds for which to remember
#: numbers. Then the number and the data of each message. Returns epoch and head.
PUBLISH = Script(
    _BEGIN
    + """
local last, before = tonumber(redis.call('GET', KEYS[3]) or '0'), head
for index = 9, #ARGV, 2 do
    local number = tonumber(ARGV[index])
    if number > last then
        last, head = number, head + 1
        redis.call('XADD', KEYS[1], 'MAXLEN', '=', ARGV[3], string.format('%d-0', head),
            'by', ARGV[5] .. ':' .. ARGV[index], 'data', ARGV[index + 1])
    end
end
if head > before then
    local time = redis.call('TIME')
    local now, max_age = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[4])
    local ages, kept, newest = redis.call('HGET', KEYS[2], 'ages') or '', '', 0
    for at, offset in string.gmatch(ages, '(%d+)=(%d+);') do
        newest = tonumber(at)
        if newest <= now - max_age then
            redis.call('XTRIM', KEYS[1], 'MINID', '=', string.format('%d-0', offset + 1))
        else
            kept = kept .. at .. '=' .. offset .. ';'
        end
    end
    if now - newest >= max_age / 10 then
        kept = kept .. string.format('%d=%d;', now, head)
    end
    redis.call('HSET', KEYS[2], 'head', string.format('%d', head), 'ages', kept)
    redis.call('PEXPIRE', KEYS[1], max_age)
    redis.call('SET', KEYS[3], string.format('%d', last), 'PX', ARGV[8])
end
redis.call(ARGV[6], ARGV[7], '')
return {epoch, head}
"""
)

SCRIPTS = (OPEN, FETCH, PUBLISH)


@attrs.frozen
class Names:
    """The names of keys and channels.

    Attributes:
        prefix: What they begin with.
    """

    prefix: str

    def channel(self, topic: str) -> bytes:
        """Return the channel of a topic."""
        return f"{self.prefix}{{={topic}}}".encode("utf-8", "surrogatepass")

    def stream(self, topic: str) -> bytes:
        """Return the key of the messages of a topic."""
        return self.channel(topic) + b":stream"

    def hash(self, topic: str) -> bytes:
        """Return the key of the hash about a topic."""
        return self.channel(topic) + b":topic"

    def publisher(self, topic: str, publisher: str) -> bytes:
        """Return the key of the last number of a publisher."""
        return self.channel(topic) + b":by:" + publisher.encode()

    def members(self, topic: str) -> bytes:
        """Return the key of the members of a topic."""
        return self.channel(topic) + b":members"

    def node(self, session: str) -> bytes:
        """Return the key that exists while a session is alive."""
        return f"{self.prefix}node:{session}".encode("utf-8", "surrogatepass")


def slot_of(key: bytes) -> int:
    """Return the slot of a key or channel in a cluster."""
    begin = key.find(b"{")
    end = key.find(b"}", begin + 1)
    if begin >= 0 and end > begin + 1:
        key = key[begin + 1 : end]
    return crc_hqx(key, 0) % 16384
