"""Sessions in the tables of a SQLite store: what is done to them within a transaction."""

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from gatestream.server.durability import rules
from gatestream.server.durability.checkpoints import CLOSED_SECONDS, Checkpoint, Key, Meaning, Stored, Writes
from gatestream.server.durability.database import SLOTS
from gatestream.server.durability.rules import Record
from gatestream.server.durability.sealing import seal, seals
from gatestream.server.durability.transactions import Use, boot_time

PIECE: Final = 1000
"""Sessions in one transaction."""
# And so many where each is another page to be read and written: claims wait for one such transaction.
_PRUNED: Final = 100
# The beat of an owner that has had none.
_NEVER: Final = -1e12

_READ: Final = """
select s.id, s.epoch, coalesce(o.name, ''), s.wanted, s.written, s.zero, s.one, m.fingerprint, m.states,
  m.version, z.sequence, z.position, cast(z.state as blob), z.checksum, y.sequence, y.position,
  cast(y.state as blob), y.checksum
from sessions s left join owners o on o.id = s.owner left join meanings m on m.id = s.meaning
  left join checkpoints_zero z on z.id = s.id left join checkpoints_one y on y.id = s.id
where s.tenant = ? and s.model = ? and s.name = ?
"""
_FREE: Final = "owner = 0, wanted = 0"
_PAGE: Final = """
select s.tenant, s.model, s.name, s.epoch, coalesce(o.name, ''), m.fingerprint, m.states, m.version, s.bytes, s.written
from sessions s left join owners o on o.id = s.owner left join meanings m on m.id = s.meaning
where s.live and (s.tenant, s.model, s.name) > (?, ?, ?){} order by s.tenant, s.model, s.name limit ?
"""
_ASK: Final = """
insert into asked select key, s.id, s.epoch, value->>4, value->>5, value->>6, value->>7, null, null
from json_each(?1) cross join sessions s
where s.tenant = value->>0 and s.model = value->>1 and s.name = value->>2 and s.live
  and s.epoch = coalesce(value->>3, s.epoch) and s.owner = coalesce(?2, s.owner)
"""
# Where the new checkpoint goes, and whether it alone stays: as `rules.written`.
_AIM: Final = """
update asked set
  only_one = asked.acknowledged >= asked.sequence and asked.sequence >= max(coalesce(zero, -1), coalesce(one, -1)),
  target = case
    when asked.sequence = zero then 0
    when asked.sequence = one then 1
    when one is null then 1
    when zero is null then 0
    when asked.sequence > max(zero, one) then (zero > one) = (asked.acknowledged >= max(zero, one))
    when asked.acknowledged >= asked.sequence or asked.sequence < min(zero, one) then zero > one
  end
from sessions s where s.id = asked.id
"""
_MOVE: Final = """
update sessions set written = ?1,
  zero = case when a.target = 0 then a.sequence when not a.only_one then zero end,
  one = case when a.target = 1 then a.sequence when not a.only_one then one end
from asked a where sessions.id = a.id
"""
_STATES: Final = tuple(
    f"""
insert or replace into {slot}
select id, sequence, position, checksum, substr(?1, 1 + k * ?2, ?2) from asked where target = {target}
"""
    for target, slot in enumerate(SLOTS)
)
_WRITTEN: Final = """
select json_group_array(json_array(a.k, min(coalesce(s.zero, s.one), coalesce(s.one, s.zero)), s.wanted))
from asked a join sessions s on s.id = a.id
"""
_END: Final = """
update sessions set live = 0, bytes = 0, owner = 0, wanted = 0, zero = null, one = null, written = ?
where id in (select id from asked)
"""
_FORGET_STATES: Final = tuple(f"delete from {slot} where id in (select id from asked)" for slot in SLOTS)


class Row(NamedTuple):
    """What the file has of a session: its id, where its checkpoints are, and what it knows of it."""

    id: int
    slots: tuple[int | None, int | None]
    record: Record


def read(use: Use, key: Key, check: bool = True) -> Row | None:
    """A session, with what is stored of it.

    Args:
        use: of the file.
        key: of the session.
        check: its checkpoints are read to be used.

    Raises:
        CheckpointUnfit: one is damaged.
    """
    row = use.connection.execute(_READ, key).fetchone()
    if row is None:
        return None
    session, epoch, owner, wanted, written, zero, one, *rest = row
    found = []
    for sequence, checkpoint, checksum in ((zero, rest[3:6], rest[6]), (one, rest[7:10], rest[10])):
        if sequence is None:
            continue
        if check and (checkpoint[0] != sequence or not isinstance(checkpoint[2], bytes)):
            raise rules.damaged(key, f"at sequence {sequence} is missing")
        item = Checkpoint(*checkpoint)
        if check and seal(key, item) != checksum:
            raise rules.damaged(key, f"at sequence {sequence} is damaged: its checksum is another")
        found.append(item)
    found.sort(key=lambda item: item.sequence)
    meaning = Meaning(*rest[:3])
    return Row(session, (zero, one), Record(epoch, owner, meaning, tuple(found), written, bool(wanted)))


def keep(use: Use, key: Key, row: Row | None, after: Record) -> None:
    """Have the file know this of a session."""
    slots: list[int | None] = [None, None]
    fresh = []
    for item in after.checkpoints:
        if row is not None and any(item is known for known in row.record.checkpoints):
            slots[row.slots.index(item.sequence)] = item.sequence
        else:
            fresh.append(item)
    owner = _number(use, after.owner) if after.owner else 0
    places = []
    for item in fresh:
        places.append(slots.index(None))
        slots[places[-1]] = item.sequence
    values = (after.epoch, owner, after.wanted, _meaning(use, after.meaning), after.written, after.room, *slots)
    if row is None:
        query = (
            "insert into sessions(epoch, owner, wanted, meaning, written, bytes, zero, one, live, tenant, model, name) "
            "values (?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?) returning id"
        )
        [session] = use.connection.execute(query, (*values, *key)).fetchone()
    else:
        session = row.id
        query = (
            "update sessions set epoch = ?, owner = ?, wanted = ?, meaning = ?, written = ?, bytes = ?, zero = ?, "
            "one = ?, live = 1 where id = ?"
        )
        use.connection.execute(query, (*values, session))
    for place, item in zip(places, fresh, strict=True):
        use.connection.execute(
            f"insert or replace into {SLOTS[place]} values (?, ?, ?, ?, ?)",
            (session, item.sequence, item.position, seal(key, item), item.state),
        )


def _meaning(use: Use, meaning: Meaning) -> int:
    query = "select id from meanings where fingerprint = ? and states = ? and version = ?"
    row = use.connection.execute(query, meaning).fetchone()
    if row is None:
        query = "insert into meanings(fingerprint, states, version) values (?, ?, ?) returning id"
        row = use.connection.execute(query, meaning).fetchone()
    return int(row[0])


def _number(use: Use, name: str) -> int:
    row = use.connection.execute("select id from owners where name = ?", (name,)).fetchone()
    if row is None:
        query = "insert into owners(name, beat) values (?, ?) returning id"
        row = use.connection.execute(query, (name, _NEVER)).fetchone()
    return int(row[0])


def _ask(use: Use, rows: Iterable[Sequence[Any]], owner: str | None = None) -> None:
    """Find sessions, by tenant, model, name and epoch, which may be None, with what else is asked of each."""
    use.connection.execute("delete from asked")
    if owner is None:
        use.connection.execute(_ASK, (json.dumps(list(rows)), None))
    else:
        row = use.connection.execute("select id from owners where name = ?", (owner,)).fetchone()
        if row is not None:
            use.connection.execute(_ASK, (json.dumps(list(rows)), row[0]))


def write(use: Use, writes: Writes, piece: slice) -> list[list[int]]:
    """Of those that were taken: the index in the piece, the durable sequence, and whether another owner asks for it."""
    keys = writes.keys[piece]
    acknowledged = np.minimum(writes.acknowledged[piece], writes.sequences[piece])
    columns = (writes.epochs[piece], writes.sequences[piece], writes.positions[piece], acknowledged)
    numbers = (column.tolist() for column in columns)
    _ask(
        use,
        [(*key, *rest) for key, *rest in zip(keys, *numbers, seals(keys, writes, piece), strict=True)],
        writes.owner,
    )
    states = np.ascontiguousarray(writes.states[piece])
    use.connection.execute(_AIM)
    use.connection.execute(_MOVE, (time.time(),))
    for states_of_slot in _STATES:
        use.connection.execute(states_of_slot, (states.data, states.shape[1]))
    [found] = use.connection.execute(_WRITTEN).fetchone()
    rows: list[list[int]] = json.loads(found)
    return rows


def _forget_states(use: Use) -> None:
    for states_of_slot in _FORGET_STATES:
        use.connection.execute(states_of_slot)


def release(use: Use, asked: Sequence[Sequence[object]], owner: str) -> None:
    """Let go of an owner's sessions, each by tenant, model, name and epoch."""
    _ask(use, asked, owner)
    use.connection.execute(f"update sessions set {_FREE} where id in (select id from asked)")


def end(use: Use, asked: Sequence[Sequence[object]]) -> list[int]:
    """Close sessions, each by tenant, model, name and epoch or None; the indices of those that were there."""
    _ask(use, asked)
    [found] = use.connection.execute("select json_group_array(k) from asked").fetchone()
    _forget_states(use)
    use.connection.execute(_END, (time.time(),))
    indices: list[int] = json.loads(found)
    return indices


def page(use: Use, tenant: str | None, model: str | None, behind: Key | None, size: int) -> list[Stored]:
    """As `Store.page`."""
    only = {"tenant": tenant, "model": model}
    clauses = "".join(f" and s.{name} = ?" for name, value in only.items() if value is not None)
    values = [value for value in only.values() if value is not None]
    # No key is below the empty one: every model has a name.
    given = (*(behind or Key(tenant or "", "", "")), *values, size)
    found = use.connection.execute(_PAGE.format(clauses), given)
    return [Stored(Key(*row[:3]), row[3], row[4], Meaning(*row[5:8]), (), row[8], row[9]) for row in found]


def usage(use: Use, tenant: str) -> tuple[int, int]:
    """As `Store.usage`."""
    row = use.connection.execute("select sessions, bytes from tenants where tenant = ?", (tenant,)).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def beat(use: Use, owner: str) -> list[Key]:
    """As `Store.beat`."""
    number = _number(use, owner)
    use.presence.enter(number)
    use.connection.execute("update owners set beat = ? where id = ?", (boot_time(), number))
    query = "select tenant, model, name from sessions where owner = ? and wanted = 1 limit ?"
    return [Key(*row) for row in use.connection.execute(query, (number, PIECE))]


def lives(use: Use, owner: str, silence: float) -> bool:
    """Whether an owner's process runs, and has beaten within so many seconds."""
    row = use.connection.execute("select id, beat from owners where name = ?", (owner,)).fetchone()
    # A beat that is to come is of before the machine was booted.
    return row is not None and 0 <= boot_time() - row[1] < silence and use.presence.has(row[0])


def leave(use: Use, owner: str) -> int:
    """Let go of what an owner has, and, where that is nothing any more, of the owner; of how many."""
    number = _number(use, owner)
    query = f"update sessions set {_FREE} where id in (select id from sessions where owner = ? limit ?)"
    released = use.connection.execute(query, (number, PIECE)).rowcount
    if not released:
        use.connection.execute("delete from owners where id = ?", (number,))
        use.presence.leave(number)
    return released


def forget_owners(use: Use) -> None:
    """Forget owners whose process has ended, or that are silent for longer than any that is only slow."""
    dead = [
        row[0]
        for row in use.connection.execute("select id, beat from owners")
        if not use.presence.has(row[0]) or not 0 <= boot_time() - row[1] < CLOSED_SECONDS
    ]
    use.connection.execute("delete from owners where id in (select value from json_each(?))", (json.dumps(dead),))


def free(use: Use) -> int:
    """Let go of sessions whose owners are forgotten; of how many."""
    query = (
        f"update sessions set {_FREE} where id in (select id from sessions "
        "where owner != 0 and owner not in (select id from owners) limit ?)"
    )
    return use.connection.execute(query, (PIECE,)).rowcount


def prune_parked(use: Use, before: float) -> int:
    """Forget sessions that nobody has, last written before then; how many."""
    return _prune(use, "owner = 0 and live = 1", before)


def prune_closed(use: Use, before: float) -> int:
    """Forget the epochs of sessions that were closed before then; how many."""
    return _prune(use, "live = 0", before)


def _prune(use: Use, which: str, before: float) -> int:
    use.connection.execute("delete from asked")
    query = f"insert into asked(id) select id from sessions where {which} and written < ? limit ?"
    found = use.connection.execute(query, (before, _PRUNED)).rowcount
    _forget_states(use)
    use.connection.execute("delete from sessions where id in (select id from asked)")
    return found
