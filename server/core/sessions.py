"""The sessions of one model, in columns: a session is an integer, its slot."""

import itertools
import re
import secrets
from collections.abc import Container
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Ints
from gatestream.server.core.slots import Slots
from gatestream.server.errors import AlreadyExists, Exhausted, InvalidRequest, NotFound, Reason
from gatestream.server.sequence_ids import SEQUENCE_SESSION

_ID: Final = re.compile(rf"[A-Za-z0-9._:-]{{1,128}}|{SEQUENCE_SESSION}")
_NOBODY: Final = -1


class _Tenant:
    """The sessions of one tenant.

    Attributes:
        number: what it is called in columns.
        slot_of: by id; without those that are leaving.
        sessions: how many it has, with those.
        created: how many it ever had.
    """

    __slots__ = ("created", "number", "sessions", "slot_of")

    def __init__(self, number: int):
        self.number = number
        # By the id's bytes, which take 16 less than a string.
        self.slot_of: dict[bytes, int] = {}
        self.sessions = 0
        self.created = 0


class SessionTable:
    """Which sessions there are, and what is known of each besides its state.

    Args:
        capacity: sessions.

    Attributes:
        share: how many one tenant may have.
        ends: how often sessions have lost their ids; what `get` has found is so as long as it was no more often.

    And, indexed by slot:
        position: steps consumed.
        accepted: steps consumed when all that is pending has run.
        answered_at: when it was last answered, in the clock of whoever writes it.
        handle: what its owner calls it.
        owner: None for a session that no stream holds.
        attached: whether one does.
        sequence: whether it is one of the Open Inference Protocol, held by no stream.
        serial: how many sessions its tenant had had before it.
        leaving: it only waits for its end, and is not counted: another session may have its id.
    """

    def __init__(self, capacity: int):
        self.share = capacity
        self.ends = 0
        self._slots = Slots(capacity)
        self._numbers = itertools.count()
        self._tenants: dict[int, _Tenant] = {}
        self._by_name: dict[str, _Tenant] = {}
        self._id = np.full(capacity, None, object)
        self._tenant = np.full(capacity, _NOBODY, np.int32)
        self.position = np.zeros(capacity, np.int64)
        self.accepted = np.zeros(capacity, np.int64)
        self.answered_at = np.full(capacity, np.inf)
        self.handle = np.zeros(capacity, np.int32)
        self.owner: npt.NDArray[np.object_] = np.full(capacity, None, object)
        self.attached = np.zeros(capacity, np.bool_)
        self.sequence = np.zeros(capacity, np.bool_)
        self.serial = np.zeros(capacity, np.int64)
        self.leaving = np.zeros(capacity, np.bool_)

    def __len__(self) -> int:
        return sum(len(tenant.slot_of) for tenant in self._tenants.values())

    def check(self) -> list[str]:
        """What does not add up, where nothing is pending and all slots of removed sessions are free."""
        there = self._tenant != _NOBODY
        sessions, leaving = int(np.count_nonzero(there)), int(np.count_nonzero(self.leaving))
        found = []
        if self._slots.taken != sessions:
            found.append(f"{self._slots.taken} slots are taken, {sessions} sessions are there")
        if (counted := sum(tenant.sessions for tenant in self._tenants.values())) != sessions:
            found.append(f"tenants have {counted} sessions, {sessions} are there")
        if len(self) + leaving != sessions:
            found.append(f"{len(self)} sessions have an id and {leaving} are leaving, {sessions} are there")
        if late := int(np.count_nonzero(self.position[there] != self.accepted[there])):
            found.append(f"{late} sessions have not consumed all steps that were accepted")
        return found

    @property
    def taken(self) -> int:
        """How many there are, with those that are leaving."""
        return self._slots.taken

    def create(self, tenant: str, session_id: str, now: float) -> int:
        """A new session at position 0, owned by nobody.

        Args:
            tenant: whose it is; one tenant's ids are unknown to every other.
            session_id: empty for one made here, of 128 random bits.
            now: the time, for `answered_at`.

        Returns:
            Its slot.

        Raises:
            InvalidRequest: the id is not of the form that the protocol asks for.
            AlreadyExists: the tenant has a session of this id.
            Exhausted: every slot is taken, or as many as one tenant may have.
        """
        # 22 characters: in hexadecimal they would take 16 bytes more.
        session_id = session_id or secrets.token_urlsafe(16)
        if not _ID.fullmatch(session_id):
            raise InvalidRequest(
                f"session_id is {session_id[:140]!r}; expected 1 to 128 characters of A-Z a-z 0-9 . _ : -",
                Reason.SESSION_ID_INVALID,
            )
        mine = self._by_name.get(tenant)
        if mine is None:
            mine = self._by_name[tenant] = _Tenant(next(self._numbers))
            self._tenants[mine.number] = mine
        key = session_id.encode()
        if key in mine.slot_of:
            raise AlreadyExists(f"session {session_id!r} exists; resume it, or choose another session_id")
        if mine.sessions >= self.share < len(self._id):
            raise Exhausted(
                f"all {self.share} of this tenant's sessions are taken; close some, or try again later",
                Reason.SESSIONS_EXHAUSTED,
                retry_after=1.0,
            )
        if not self._slots.free:
            raise Exhausted(
                f"all {len(self._id)} sessions are taken; close some, or start the server with a higher --sessions",
                Reason.SESSIONS_EXHAUSTED,
                retry_after=1.0,
            )
        slot = int(self._slots.take(1)[0])
        mine.slot_of[key] = slot
        mine.sessions += 1
        self._id[slot] = key
        self._tenant[slot] = mine.number
        self.serial[slot] = mine.created
        mine.created += 1
        self.sequence[slot] = False
        self.position[slot] = self.accepted[slot] = 0
        self.answered_at[slot] = now
        return slot

    def get(self, tenant: str, session_id: str) -> int | None:
        """The slot of a session, or None when the tenant has no such session."""
        mine = self._by_name.get(tenant)
        return None if mine is None else mine.slot_of.get(session_id.encode())

    def find(self, tenant: str, session_id: str) -> int:
        """The slot of a session.

        Raises:
            NotFound: the tenant has no such session.
        """
        slot = self.get(tenant, session_id)
        if slot is None:
            raise NotFound(f"no session {session_id[:140]!r} here; it was never opened, or was closed or expired")
        return slot

    def advance(self, slots: int | Ints, lengths: int | Ints, now: float) -> Any:
        """Note that steps were taken; the position of each session's first."""
        first = self.position[slots]
        self.position[slots] = first + lengths
        self.answered_at[slots] = now
        return first

    def leave(self, slots: Ints) -> None:
        """Let other sessions have the ids of these, which only wait for their end, and were not leaving yet."""
        for number, key in zip(self._tenant[slots].tolist(), self._id[slots].tolist(), strict=True):
            del self._tenants[number].slot_of[key]
        self.leaving[slots] = True
        self.ends += 1

    def remove(self, slots: Ints) -> None:
        """Forget these sessions; their ids are free, their slots are not until `free`."""
        self.leave(slots[~self.leaving[slots]])
        for number, gone in zip(*np.unique(self._tenant[slots], return_counts=True), strict=True):
            self._tenants[number].sessions -= int(gone)
        self._id[slots] = None
        self._tenant[slots] = _NOBODY
        self.sequence[slots] = self.attached[slots] = False
        self.owner[slots] = None
        self.leaving[slots] = False
        self.answered_at[slots] = np.inf

    def forget_all_but(self, known: Container[str]) -> None:
        """Drop the tenants that are not known any more, and have no session."""
        for name, tenant in list(self._by_name.items()):
            if name not in known and tenant.sessions == 0:
                del self._by_name[name], self._tenants[tenant.number]

    def free(self, slots: Ints) -> None:
        """Let new sessions have the slots of removed ones."""
        self._slots.give_back(slots)

    def session_id(self, slot: int) -> str:
        """What the client calls the session."""
        key: bytes = self._id[slot]
        return key.decode()

    def last_answered_before(self, time: float) -> Ints:
        """Slots of the sessions last answered before `time`."""
        return np.flatnonzero(self.answered_at < time)

    def page(self, tenant: str, after: int, size: int) -> list[int]:
        """Slots of up to `size` of a tenant's sessions, in order of their `serial`, of those behind `after`."""
        slots = self.of(tenant)
        slots = slots[(self.serial[slots] > after) & ~self.leaving[slots]]
        order = self.serial[slots]
        if size < len(slots):
            first = np.argpartition(order, size)[:size]
            slots, order = slots[first], order[first]
        page: list[int] = slots[order.argsort()].tolist()
        return page

    def of(self, tenant: str) -> Ints:
        """Slots of a tenant's sessions, with those that are leaving."""
        mine = self._by_name.get(tenant)
        return np.empty(0, np.int64) if mine is None else np.flatnonzero(self._tenant == mine.number)

    def count(self, tenant: str) -> int:
        """How many sessions a tenant has, without those that are leaving."""
        mine = self._by_name.get(tenant)
        return 0 if mine is None else len(mine.slot_of)

    def at_share(self, tenant: str) -> bool:
        """Whether a tenant has as many sessions as it may."""
        mine = self._by_name.get(tenant)
        return mine is not None and mine.sessions >= self.share
