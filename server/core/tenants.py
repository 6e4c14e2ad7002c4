"""Whose the sessions of one model are, what they are called, and how many each tenant has."""

import itertools
import re
from collections.abc import Container
from typing import Final

import numpy as np

from gatestream.server.arrays import Ints
from gatestream.server.errors import AlreadyExists, InvalidRequest, NotFound, Reason
from gatestream.server.sequence_ids import SEQUENCE_SESSION

_ID: Final = re.compile(rf"[A-Za-z0-9._:-]{{1,128}}|{SEQUENCE_SESSION}")
_NOBODY: Final = -1


class Tenant:
    """The sessions of one tenant.

    Attributes:
        name: that it is known by.
        number: what it is called in columns.
        session_of: by id; without those that are leaving.
        sessions: how many it has, with those.
        slots: how many of these have one.
        created: how many it ever had.
    """

    __slots__ = ("created", "name", "number", "session_of", "sessions", "slots")

    def __init__(self, name: str, number: int):
        self.name = name
        self.number = number
        # By the id's bytes, which take 16 less than a string.
        self.session_of: dict[bytes, int] = {}
        self.sessions = 0
        self.slots = 0
        self.created = 0


class Tenants:
    """Those that have sessions of one model; one tenant's ids are unknown to every other.

    Args:
        capacity: sessions that there may be.
    """

    def __init__(self, capacity: int):
        self._numbers = itertools.count()
        self._by_number: dict[int, Tenant] = {}
        self._by_name: dict[str, Tenant] = {}
        # By session.
        self._id = np.full(capacity, None, object)
        self._tenant = np.full(capacity, _NOBODY, np.int32)

    def __len__(self) -> int:
        return sum(len(tenant.session_of) for tenant in self._by_number.values())

    def check(self, with_slot: Ints) -> list[str]:
        """What does not add up, where these sessions have a slot and nothing is pending."""
        found = []
        sessions, slots = self.there(), np.intersect1d(with_slot, self.there())
        if (counted := sum(tenant.slots for tenant in self._by_number.values())) != len(slots):
            found.append(f"tenants have {counted} slots, their sessions {len(slots)}")
        if (counted := sum(tenant.sessions for tenant in self._by_number.values())) != len(sessions):
            found.append(f"tenants have {counted} sessions, {len(sessions)} are there")
        return found

    # ---- What becomes of a session ------------------------------------------------------------

    def enter(self, session: int, tenant: str, session_id: str) -> int:
        """Have a session be a tenant's, under an id that is free; how many the tenant had before."""
        mine = self._by_name.get(tenant)
        if mine is None:
            mine = self._by_name[tenant] = Tenant(tenant, next(self._numbers))
            self._by_number[mine.number] = mine
        key = session_id.encode()
        mine.session_of[key] = session
        mine.sessions += 1
        mine.created += 1
        self._tenant[session], self._id[session] = mine.number, key
        return mine.created - 1

    def count_slot(self, session: int, change: int) -> None:
        """Note that a session has a slot more, or less."""
        self._by_number[int(self._tenant[session])].slots += change

    def forget_ids(self, sessions: Ints) -> None:
        """Let other sessions have the ids of these."""
        for number, key in zip(self._tenant[sessions].tolist(), self._id[sessions].tolist(), strict=True):
            del self._by_number[number].session_of[key]

    def remove(self, sessions: Ints, with_slot: Ints) -> None:
        """Forget sessions, whose ids are forgotten, and of which these have a slot."""
        for number, gone in zip(*np.unique(self._tenant[sessions], return_counts=True), strict=True):
            self._by_number[number].sessions -= int(gone)
        for number, gone in zip(*np.unique(self._tenant[with_slot], return_counts=True), strict=True):
            self._by_number[number].slots -= int(gone)
        self._id[sessions] = None
        self._tenant[sessions] = _NOBODY

    def forget_all_but(self, known: Container[str]) -> None:
        """Drop the tenants that are not known any more, and have no session."""
        for name, tenant in list(self._by_name.items()):
            if name not in known and tenant.sessions == 0:
                del self._by_name[name], self._by_number[tenant.number]

    # ---- Which there are ----------------------------------------------------------------------

    def get(self, tenant: str, session_id: str) -> int | None:
        """A session by its id, or None when the tenant has no such session."""
        mine = self._by_name.get(tenant)
        return None if mine is None else mine.session_of.get(session_id.encode())

    def find(self, tenant: str, session_id: str) -> int:
        """A session by its id.

        Raises:
            NotFound: the tenant has no such session.
        """
        session = self.get(tenant, session_id)
        if session is None:
            raise NotFound(f"no session {session_id[:140]!r} here; it was never opened, or was closed or expired")
        return session

    def check_free(self, tenant: str, session_id: str) -> None:
        """Check that a session could be made under an id.

        Raises:
            InvalidRequest: the id is not of the form that the protocol asks for.
            AlreadyExists: the tenant has a session of this id.
        """
        if not _ID.fullmatch(session_id):
            raise InvalidRequest(
                f"session_id is {session_id[:140]!r}; expected 1 to 128 characters of A-Z a-z 0-9 . _ : -",
                Reason.SESSION_ID_INVALID,
            )
        if self.get(tenant, session_id) is not None:
            raise AlreadyExists(f"session {session_id!r} exists; resume it, or choose another session_id")

    def session_id(self, session: int) -> str:
        """What the client calls a session."""
        key: bytes = self._id[session]
        return key.decode()

    def tenant(self, session: int) -> str:
        """Whose a session is."""
        return self._by_number[int(self._tenant[session])].name

    def names(self, sessions: Ints) -> tuple[list[str], list[str]]:
        """Whose sessions are, and what the clients call them, each [sessions]."""
        numbers = self._tenant[sessions].tolist()
        name_of = {number: self._by_number[number].name for number in set(numbers)}
        return [name_of[number] for number in numbers], [key.decode() for key in self._id[sessions].tolist()]

    def there(self) -> Ints:
        """All sessions, with those that are leaving."""
        return np.flatnonzero(self._tenant != _NOBODY)

    def of(self, tenant: str) -> Ints:
        """A tenant's sessions, with those that are leaving."""
        mine = self._by_name.get(tenant)
        return np.empty(0, np.int64) if mine is None else np.flatnonzero(self._tenant == mine.number)

    def those_of(self, tenant: str, sessions: Ints) -> Ints:
        """The tenant's among some sessions."""
        mine = self._by_name.get(tenant)
        return sessions[:0] if mine is None else sessions[self._tenant[sessions] == mine.number]

    def count(self, tenant: str) -> int:
        """How many sessions a tenant has, without those that are leaving."""
        mine = self._by_name.get(tenant)
        return 0 if mine is None else len(mine.session_of)

    def taken(self, tenant: str) -> tuple[int, int]:
        """How many sessions a tenant has, with those that are leaving, and how many of these have a slot."""
        mine = self._by_name.get(tenant)
        return (0, 0) if mine is None else (mine.sessions, mine.slots)
