"""The sessions of one model, in columns."""

import asyncio
import itertools
import secrets
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Ints
from gatestream.server.core.slots import Slots
from gatestream.server.core.tenants import Tenants
from gatestream.server.core.transitions import Event, Phase, after
from gatestream.server.errors import Exhausted, Reason

_NOBODY: Final = -1
_NO_SLOT: Final = -1
_NEVER: Final = -1

UNKNOWN: Final = -(2**62)
"""What stands in `accepted` while nobody knows where a session will stand; steps that are accepted count from there."""


class Stands(NamedTuple):
    """Where a session stands.

    Attributes:
        position: steps consumed.
        epoch: how often it was opened.
        sequence: steps and resets consumed, and states that were set.
        durable: the sequence that it can go back to.
    """

    position: int
    epoch: int
    sequence: int
    durable: int


class SessionTable:
    """Which sessions there are, and what is known of each besides its state. A session is an integer, for its life.

    Args:
        slots: rows of state; as many sessions can be resident.
        parked: sessions that there may be besides.

    Attributes:
        tenants: whose they are, and what they are called.
        share: how many one tenant may have.
        generation: another number whenever a session has lost its id or its slot: what was found before is to be looked
            up again.

    And, indexed by session:
        phase: of its life, as `transitions.Phase`.
        slot: its row of state; -1: it has none.
        aside: the state of a parked one that stands where the store keeps no checkpoint; else None.
        position: steps consumed.
        accepted: steps consumed when all that is pending has run.
        answered_at: when it was last answered, in the clock of whoever writes it.
        handle: what its owner calls it.
        owner: None for a session that no stream holds.
        sequence: whether it is one of the Open Inference Protocol, held by no stream.
        serial: how many sessions its tenant had had before it.
        birth: how many sessions there had been before it: no other has the same.
        epoch: how often it was opened, as those count who open it.
        proposed: the same with the Opens that wait for the store.
        offset: its sequence is its position and this.
        setting: whether a state of it is to be set: which sequence goes with `accepted` is not known.

    And of those that a store knows:
        kept: whether it does.
        parks: whether the session stays when its stream ends.
        claiming: how many Opens are to ask the store.
        asked: whether one of them does, or it is asked to end the session: what would be written now, it would refuse.
        acknowledged: sequence of the first answer that the client lacks, as it says.
        written: sequence of the latest checkpoint that is confirmed.
        tip: sequence of the newest that is stored; the session may have gone back behind it.
        durable: sequence of the one that the session can go back to.
        changes: by session, set when one is confirmed, or it has ended: for who waits for that.
    """

    def __init__(self, slots: int, parked: int = 0):
        capacity = slots + parked
        self.tenants = Tenants(capacity)
        self.share = slots
        self.generation = 0
        self._free = Slots(capacity)
        self._slots = Slots(slots)
        # By slot, who has it.
        self._in_slot = np.full(slots, _NOBODY, np.int64)
        self.phase = np.full(capacity, Phase.CLOSED, np.int8)
        self.slot = np.full(capacity, _NO_SLOT, np.int64)
        self.aside: npt.NDArray[np.object_] = np.full(capacity, None, object)
        self.position = np.zeros(capacity, np.int64)
        self.accepted = np.zeros(capacity, np.int64)
        self.answered_at = np.full(capacity, np.inf)
        self.handle = np.zeros(capacity, np.int32)
        self.owner: npt.NDArray[np.object_] = np.full(capacity, None, object)
        self.sequence = np.zeros(capacity, np.bool_)
        self.serial = np.zeros(capacity, np.int64)
        self.birth = np.full(capacity, _NEVER, np.int64)
        self.epoch = np.zeros(capacity, np.int64)
        self.proposed = np.zeros(capacity, np.int64)
        self.offset = np.zeros(capacity, np.int64)
        self.setting = np.zeros(capacity, np.bool_)
        self.kept = np.zeros(capacity, np.bool_)
        self.parks = np.zeros(capacity, np.bool_)
        self.claiming = np.zeros(capacity, np.int32)
        self.asked = np.zeros(capacity, np.bool_)
        self.changes: dict[int, asyncio.Event] = {}
        self.acknowledged = np.zeros(capacity, np.int64)
        self.written = np.full(capacity, _NEVER, np.int64)
        self.tip = np.full(capacity, _NEVER, np.int64)
        self.durable = np.zeros(capacity, np.int64)
        self._births = itertools.count()

    def __len__(self) -> int:
        return len(self.tenants)

    def check(self) -> list[str]:
        """What does not add up, where nothing is pending and all slots of removed sessions are free."""
        there, with_slot = self.tenants.there(), np.flatnonzero(self.slot != _NO_SLOT)
        leaving = int(np.count_nonzero(self.phase == Phase.CLOSING))
        found = self.tenants.check(with_slot)
        if self._free.taken != len(there):
            found.append(f"{self._free.taken} numbers of sessions are taken, {len(there)} sessions are there")
        if self._slots.taken != len(with_slot):
            found.append(f"{self._slots.taken} slots are taken, {len(with_slot)} sessions are to have one")
        if not np.array_equal(np.sort(self.with_slot()), with_slot):
            found.append("sessions that have a slot are not those that slots are said to be of")
        resident = (self.phase == Phase.RESIDENT) | (self.phase == Phase.DETACHED)
        if lacking := int(np.count_nonzero(resident & (self.slot == _NO_SLOT))):
            found.append(f"{lacking} sessions have no slot, and are to have one")
        if len(self) + leaving != len(there):
            found.append(f"{len(self)} sessions have an id and {leaving} are leaving, {len(there)} are there")
        if late := int(np.count_nonzero(self.position[there] != self.accepted[there])):
            found.append(f"{late} sessions have not consumed all steps that were accepted")
        return found

    @property
    def taken(self) -> int:
        """How many there are, with those that are leaving."""
        return self._free.taken

    @property
    def slots(self) -> int:
        """How many there are."""
        return len(self._slots)

    @property
    def free_slots(self) -> int:
        """How many nobody has."""
        return self._slots.free

    @property
    def resident(self) -> int:
        """How many have a slot."""
        return self._slots.taken

    # ---- What becomes of a session ------------------------------------------------------------

    def create(self, tenant: str, session_id: str, now: float) -> int:
        """A new session at position 0, with a slot, held by nobody.

        Args:
            tenant: whose it is; one tenant's ids are unknown to every other.
            session_id: empty for one made here, of 128 random bits.
            now: the time, for `answered_at`.

        Raises:
            InvalidRequest: the id is not of the form that the protocol asks for.
            AlreadyExists: the tenant has a session of this id.
            Exhausted: every slot is taken, or as many sessions as one tenant may have.
        """
        # 22 characters: in hexadecimal they would take 16 bytes more.
        session_id = session_id or secrets.token_urlsafe(16)
        self.tenants.check_free(tenant, session_id)
        if self.at_share(tenant) and self.share < len(self._slots):
            raise Exhausted(
                f"all {self.share} of this tenant's sessions are taken; close some, or try again later",
                Reason.SESSIONS_EXHAUSTED,
                retry_after=1.0,
            )
        if not self._free.free:
            raise self._exhausted()
        if not self._slots.free:
            raise self._exhausted()
        session = int(self._free.take(1)[0])
        self._happens(session, Event.CREATE)
        self.serial[session] = self.tenants.enter(session, tenant, session_id)
        self.give_slot(session)
        self.position[session] = self.accepted[session] = self.offset[session] = 0
        self.birth[session] = next(self._births)
        self.epoch[session] = self.proposed[session] = 0
        self.answered_at[session] = now
        return session

    def pass_on(self, session: int, other: "SessionTable", twin: int) -> None:
        """Have a session of another table be counted on as this one is, which ends; the store does not know it yet."""
        for name in ("epoch", "proposed", "offset", "setting", "parks", "acknowledged", "written", "tip", "durable"):
            getattr(other, name)[twin] = getattr(self, name)[session]

    def attach(self, session: int, owner: object, handle: int) -> None:
        """Have an owner hold a session.

        Args:
            session: which.
            owner: who holds it.
            handle: what the owner calls it.
        """
        self._happens(session, Event.ATTACH)
        self.owner[session] = owner
        self.handle[session] = handle
        self.sequence[session] = False

    def detach(self, sessions: int | Ints) -> None:
        """Have no owner hold these."""
        self._happens(sessions, Event.DETACH)
        self.owner[sessions] = None

    def park(self, session: int) -> None:
        """Let another session have the slot of one whose state is in a store, or aside."""
        self._happens(session, Event.PARK)
        self.tenants.count_slot(session, -1)
        self._take_slots(np.array([session]))
        self.generation += 1

    def restore(self, session: int) -> None:
        """A parked session is to have a slot."""
        self._happens(session, Event.RESTORE)

    def give_slot(self, session: int) -> None:
        """Give it one, for a state that is put there at once; `free_slots` says that there is one."""
        slot = int(self._slots.take(1)[0])
        self.slot[session], self._in_slot[slot] = slot, session
        self.tenants.count_slot(session, 1)

    def restored(self, session: int) -> None:
        """The state of a session is in its slot again."""
        self._happens(session, Event.RESTORED)
        self.aside[session] = None
        if self.owner[session] is not None and self.phase[session] == Phase.DETACHED:
            self._happens(session, Event.ATTACH)

    def advance(self, sessions: tuple[int, ...] | Ints, lengths: tuple[int, ...] | Ints, now: float) -> Any:
        """Note that steps were taken; the position of each session's first. A tuple is of few, of one step each."""
        if isinstance(sessions, tuple):
            return self._advance_few(sessions, now)
        first = self.position[sessions]
        self.position[sessions] = first + lengths
        self.answered_at[sessions] = now
        return first

    def _advance_few(self, sessions: tuple[int, ...], now: float) -> list[int]:
        position, answered_at = self.position, self.answered_at
        first = []
        for session in sessions:
            before = position.item(session)
            position[session] = before + 1
            answered_at[session] = now
            first.append(before)
        return first

    def leave(self, sessions: Ints) -> None:
        """Let other sessions have the ids of these, which only wait for their end."""
        self._happens(sessions, Event.CLOSE)
        self._forget_ids(sessions)

    def remove(self, sessions: Ints) -> None:
        """Forget these sessions; their ids are free, their slots are not until `free`."""
        self._forget_ids(sessions[self.phase[sessions] != Phase.CLOSING])
        self._happens(sessions, Event.END)
        self.tenants.remove(sessions, sessions[self.slot[sessions] != _NO_SLOT])
        self.aside[sessions] = None
        for column in (self.sequence, self.setting, self.kept, self.parks, self.asked):
            column[sessions] = False
        self.owner[sessions] = None
        self.answered_at[sessions] = np.inf
        self.birth[sessions] = _NEVER
        self.claiming[sessions] = self.acknowledged[sessions] = 0
        self.written[sessions] = self.tip[sessions] = _NEVER
        self.changed(sessions)

    def changed(self, sessions: Ints) -> None:
        """Tell who waits for that: of these a checkpoint is confirmed, or they have ended."""
        if self.changes:
            for session in sessions.tolist():
                if (waits := self.changes.pop(session, None)) is not None:
                    waits.set()

    def free(self, sessions: Ints) -> None:
        """Let new sessions have the slots of removed ones."""
        self._take_slots(sessions)
        self._free.give_back(sessions)

    def _happens(self, sessions: int | Ints, event: Event) -> None:
        self.phase[sessions] = after(self.phase[sessions], event)

    def _forget_ids(self, sessions: Ints) -> None:
        self.tenants.forget_ids(sessions)
        self.generation += 1

    def _take_slots(self, sessions: Ints) -> None:
        slots = self.slot[sessions]
        slots = slots[slots != _NO_SLOT]
        self._slots.give_back(slots)
        self._in_slot[slots] = _NOBODY
        self.slot[sessions] = _NO_SLOT

    def _exhausted(self) -> Exhausted:
        most, flag = (len(self.phase), "--held-sessions") if self._slots.free else (len(self._slots), "--sessions")
        return Exhausted(
            f"all {most} sessions are taken; close some, or start the server with a higher {flag}",
            Reason.SESSIONS_EXHAUSTED,
            retry_after=1.0,
        )

    # ---- Which there are ----------------------------------------------------------------------

    def sequences(self, sessions: int | slice | Ints) -> Any:
        """Steps and resets that sessions have consumed, and states that were set."""
        return self.position[sessions] + self.offset[sessions]

    def acknowledge(self, session: int, first: int, acknowledged: int) -> None:
        """Note what a message of steps says that its client has, before they are accepted.

        Args:
            session: which.
            first: position of the first step; -1: not sent.
            acknowledged: sequence of the first answer that the client lacks; -1: that of `first`, where the steps are
                meant for where the session stands: else they are refused, and say nothing.
        """
        if acknowledged >= 0:
            self.acknowledged[session] = acknowledged
        elif first >= 0 and first == self.accepted.item(session):
            self.acknowledged[session] = first + self.offset[session]

    def acknowledge_all(self, sessions: Ints, first: Ints | None, acknowledged: Ints | None) -> None:
        """As `acknowledge`, each [sessions]; None: not sent."""
        if acknowledged is not None:
            self.acknowledged[sessions] = acknowledged
        elif first is not None:
            meant = first == self.accepted[sessions]
            sessions, first = sessions[meant], first[meant]
            self.acknowledged[sessions] = first + self.offset[sessions]

    def are_aside(self, sessions: Ints) -> npt.NDArray[np.bool_]:
        """Whether the state of each is kept aside."""
        return np.array([each is not None for each in self.aside[sessions].tolist()], np.bool_)

    def stands(self, session: int) -> Stands:
        """Where a session stands."""
        sequence = int(self.sequences(session))
        durable = int(self.durable[session]) if self.kept[session] and self.parks[session] else sequence
        return Stands(int(self.position[session]), int(self.epoch[session]), sequence, durable)

    def with_slot(self) -> Ints:
        """The sessions that have a slot; looked for by slot, however many there are without one."""
        sessions: Ints = self._in_slot[self._in_slot != _NOBODY]
        return sessions

    def last_answered_before(self, time: float) -> Ints:
        """The sessions last answered before `time`."""
        return np.flatnonzero(self.answered_at < time)

    def page(self, tenant: str, behind: int, size: int) -> list[int]:
        """Up to `size` of a tenant's sessions, in order of their `serial`, of those whose serial is above `behind`."""
        sessions = self.tenants.of(tenant)
        sessions = sessions[(self.serial[sessions] > behind) & (self.phase[sessions] != Phase.CLOSING)]
        order = self.serial[sessions]
        if size < len(sessions):
            first = np.argpartition(order, size)[:size]
            sessions, order = sessions[first], order[first]
        page: list[int] = sessions[order.argsort()].tolist()
        return page

    def census(self) -> tuple[int, int, int, int]:
        """How many sessions streams hold, none holds, are sequences, and are parked."""
        parked = int(np.count_nonzero(self.phase == Phase.PARKED))
        sequences = int(np.count_nonzero(self.sequence & (self.phase != Phase.PARKED)))
        detached = int(np.count_nonzero((self.phase == Phase.DETACHED) & ~self.sequence))
        return self.taken - parked - sequences - detached, detached, sequences, parked

    def at_share(self, tenant: str) -> bool:
        """Whether a tenant has as many sessions as it may."""
        return self.tenants.taken(tenant)[0] >= self._most or self.has_share_of_slots(tenant)

    def full(self, tenant: str) -> bool:
        """Whether there is no room for a session more of a tenant, whatever slots are free."""
        return not self._free.free or self.tenants.taken(tenant)[0] >= self._most

    @property
    def _most(self) -> int:
        """Sessions of one tenant: its share of all is that of the slots."""
        return self.share * len(self.phase) // len(self._slots)

    def has_share_of_slots(self, tenant: str, more: int = 1) -> bool:
        """Whether a tenant may not have so many slots more."""
        return self.tenants.taken(tenant)[1] + more > self.share
