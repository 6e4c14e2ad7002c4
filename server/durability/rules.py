"""What becomes of one session in a store, as plain data: the rules of docs/sessions.md that a transaction keeps.

Every store reads a record, asks these functions, and writes what they say, in one transaction. Only `written` is said
again by the stores that write many sessions at once, each in the words of its database.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from gatestream.server.durability.checkpoints import TERM, Checkpoint, Claim, Claimed, Key, Meaning, Owned, Stored
from gatestream.server.errors import (
    AlreadyExists,
    CheckpointUnfit,
    EpochStale,
    InvalidRequest,
    NotFound,
    NotReplayable,
    cut,
)

# Above it a float, in which some databases compare, is no exact integer.
_MOST: Final = 2**53 - 1


class Record(NamedTuple):
    """What a store knows of a session.

    Attributes:
        epoch: that it has, or had when it was closed.
        owner: who has it; empty: nobody.
        meaning: of its states.
        checkpoints: one or two, by sequence; none: it was closed.
        written: seconds since the Unix epoch.
        wanted: another owner asks for it.
    """

    epoch: int
    owner: str
    meaning: Meaning
    checkpoints: tuple[Checkpoint, ...]
    written: float
    wanted: bool = False

    @property
    def room(self) -> int:
        """Bytes that its checkpoints take, when it has two."""
        return 2 * len(self.checkpoints[0].state) if self.checkpoints else 0


def claimed(
    key: Key, record: Record | None, claim: Claim, lives: Callable[[str], bool], now: float
) -> tuple[Record, Claimed]:
    """Answer a claim.

    Args:
        key: of the session.
        record: what the store knows of it; None: nothing.
        claim: what is asked.
        lives: says whether an owner does.
        now: seconds since the Unix epoch.

    Returns:
        What the store knows from now on, and the answer.

    Raises:
        InvalidRequest: the epoch is out of range.
        NotFound, AlreadyExists, EpochStale, NotReplayable, CheckpointUnfit, Owned: as `Store.claim`.
    """
    if not 0 <= claim.epoch <= _MOST:
        raise InvalidRequest(f"epoch is {claim.epoch}; expected 0 to {_MOST}")
    stored = record.checkpoints if record else ()
    if not stored and claim.first is None:
        raise unknown(key)
    if stored and claim.first is not None and not claim.taken_up:
        raise exists(key)
    before = record.epoch if record else 0
    epoch = claim.epoch or before + 1
    if epoch <= before:
        raise EpochStale(f"epoch is {epoch}; session {_shown(key)} has {before}: expected a higher one", epoch=before)
    if not record or not stored:
        assert claim.first is not None, "refused above"
        made = Record(epoch, claim.owner, claim.meaning, (claim.first,), now)
        begins = claim.first.sequence
        return made, Claimed(epoch, True, None, begins, begins, claim.meaning.version)
    _check_meaning(key, record.meaning, claim.meaning)
    if record.owner not in ("", claim.owner) and lives(record.owner):
        raise Owned
    resident = claim.resident[1] if claim.resident and claim.resident[0] == before else None
    if claim.acknowledged is None:
        kept = resident is not None and resident.sequence >= stored[-1].sequence
        only = resident if kept and resident is not None else stored[-1]
        anchor = only._replace(sequence=only.sequence + TERM)
        stored, kept = (anchor,), False
    else:
        below = [item for item in stored if item.sequence <= claim.acknowledged]
        if not below:
            raise NotReplayable(
                f"acknowledged is {claim.acknowledged}; the oldest checkpoint of session {_shown(key)} is at sequence "
                f"{stored[0].sequence}: expected one at or before it"
            )
        kept = resident is not None and resident.sequence == claim.acknowledged
        anchor = below[-1]
    after = Record(epoch, claim.owner, record.meaning, stored, now)
    at = None if kept else anchor
    return after, Claimed(epoch, False, at, anchor.sequence, stored[-1].sequence, record.meaning.version)


def written(stored: tuple[Checkpoint, ...], new: Checkpoint, acknowledged: int) -> tuple[Checkpoint, ...]:
    """The checkpoints that stay when one more comes: the anchor, which is what can be gone back to, and the tip.

    Args:
        stored: one or two, by sequence.
        new: takes the place of a stored one of its sequence.
        acknowledged: sequence of the first answer that the client lacks.
    """
    known = [item for item in stored if item.sequence != new.sequence]
    known.append(new)
    known.sort()
    acknowledged = min(acknowledged, new.sequence)
    covered = [item for item in known if item.sequence <= acknowledged]
    anchor, tip = covered[-1] if covered else known[0], known[-1]
    return (anchor, tip) if anchor is not tip else (tip,)


def put(key: Key, record: Record | None, stored: Stored, now: float) -> Record:
    """What a store knows of a session that is put into it.

    Raises:
        AlreadyExists: it is there.
    """
    if record and record.checkpoints:
        raise exists(key)
    epoch = max(stored.epoch, record.epoch if record else 0) + 1
    return Record(epoch, "", stored.meaning, tuple(stored.checkpoints), now)


def unknown(key: Key) -> NotFound:
    """What is said of a session that is not there."""
    return NotFound(f"model {cut(key.model)!r} has no session {_shown(key)}")


def exists(key: Key) -> AlreadyExists:
    """What is said of a session that is there, and must not be."""
    return AlreadyExists(f"session {_shown(key)} of model {cut(key.model)!r} exists")


def damaged(key: Key, reason: str, fingerprint: str = "") -> CheckpointUnfit:
    """What is said of a session whose checkpoint cannot be used, or only with the weights of this fingerprint."""
    text = f"the checkpoint of session {_shown(key)} of model {cut(key.model)!r} {reason}"
    return CheckpointUnfit(text, fingerprint=fingerprint)


def _check_meaning(key: Key, stored: Meaning, asked: Meaning) -> None:
    for name, has, wants in (
        ("weights", stored.fingerprint, asked.fingerprint),
        ("layout of states", stored.states, asked.states),
    ):
        if has != wants:
            reason = f"is of other {name}: {has[:12]} (version {cut(stored.version)}), not {wants[:12]}"
            raise damaged(key, reason, stored.fingerprint)


def _shown(key: Key) -> str:
    return repr(cut(key.session_id))
