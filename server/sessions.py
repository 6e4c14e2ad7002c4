"""The sessions of one model, in columns: a session is an integer, its slot."""

import re
import secrets
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.errors import AlreadyExists, Exhausted, InvalidRequest, NotFound
from gatestream.server.sequence_ids import SEQUENCE_SESSION
from gatestream.server.slots import Ints, Slots

_ID: Final = re.compile(rf"[A-Za-z0-9._:-]{{1,128}}|{SEQUENCE_SESSION}")


def _key(tenant: str, session_id: str) -> bytes:
    # As bytes it takes 16 less than as a string.
    return f"{tenant}/{session_id}".encode()


class SessionTable:
    """Which sessions there are, and what is known of each besides its state.

    Attributes:
        ends: how often sessions have lost their ids; what `get` has found is so as long as it was no more often.

    And, indexed by slot:
        position: steps consumed.
        accepted: steps consumed when all that is pending has run.
        answered_at: when it was last answered, in the clock of whoever writes it.
        handle: what its owner calls it.
        owner: None for a session that no stream holds.
        leaving: it only waits for its end, and is not counted: another session may have its id.
    """

    def __init__(self, capacity: int):
        self.ends = 0
        self._slots = Slots(capacity)
        # Without those that are leaving.
        self._slot_of: dict[bytes, int] = {}
        self._key = np.full(capacity, None, object)
        self.position = np.zeros(capacity, np.int64)
        self.accepted = np.zeros(capacity, np.int64)
        self.answered_at = np.full(capacity, np.inf)
        self.handle = np.zeros(capacity, np.int32)
        self.owner: npt.NDArray[np.object_] = np.full(capacity, None, object)
        self.leaving = np.zeros(capacity, np.bool_)

    def __len__(self) -> int:
        return len(self._slot_of)

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
            Exhausted: every slot is taken.
        """
        # 22 characters: in hexadecimal they would take 16 bytes more.
        session_id = session_id or secrets.token_urlsafe(16)
        if not _ID.fullmatch(session_id):
            raise InvalidRequest(
                f"session_id is {session_id[:140]!r}; expected 1 to 128 characters of A-Z a-z 0-9 . _ : -",
                pb.REASON_SESSION_ID_INVALID,
            )
        key = _key(tenant, session_id)
        if key in self._slot_of:
            raise AlreadyExists(f"session {session_id!r} exists; resume it, or choose another session_id")
        if not self._slots.free:
            raise Exhausted(
                f"all {len(self._key)} sessions are taken; close some, or start the server with a higher --sessions",
                pb.REASON_SESSIONS_EXHAUSTED,
                retry_after=1.0,
            )
        slot = int(self._slots.take(1)[0])
        self._slot_of[key] = slot
        self._key[slot] = key
        self.position[slot] = self.accepted[slot] = 0
        self.answered_at[slot] = now
        return slot

    def get(self, tenant: str, session_id: str) -> int | None:
        """The slot of a session, or None when the tenant has no such session."""
        return self._slot_of.get(_key(tenant, session_id))

    def find(self, tenant: str, session_id: str) -> int:
        """The slot of a session.

        Raises:
            NotFound: the tenant has no such session.
        """
        slot = self.get(tenant, session_id)
        if slot is None:
            raise NotFound(f"no session {session_id[:140]!r} here; it was never opened, or was closed or expired")
        return slot

    def leave(self, slots: Ints) -> None:
        """Let other sessions have the ids of these, which only wait for their end, and were not leaving yet."""
        for key in self._key[slots].tolist():
            del self._slot_of[key]
        self.leaving[slots] = True
        self.ends += 1

    def remove(self, slots: Ints) -> None:
        """Forget these sessions; their ids are free, their slots are not until `free`."""
        self.leave(slots[~self.leaving[slots]])
        self._key[slots] = None
        self.owner[slots] = None
        self.leaving[slots] = False
        self.answered_at[slots] = np.inf

    def free(self, slots: Ints) -> None:
        """Let new sessions have the slots of removed ones."""
        self._slots.give_back(slots)

    def session_id(self, slot: int) -> str:
        """What the client calls the session."""
        key: bytes = self._key[slot]
        return key.partition(b"/")[2].decode()

    def last_answered_before(self, time: float) -> Ints:
        """Slots of the sessions last answered before `time`."""
        return np.flatnonzero(self.answered_at < time)

    def page(self, tenant: str, after: int, size: int) -> list[int]:
        """Slots of up to `size` of a tenant's sessions, in order of slot, beginning behind the slot `after`."""
        prefix = _key(tenant, "")
        here = np.isfinite(self.answered_at[after + 1 :]) & ~self.leaving[after + 1 :]
        taken = after + 1 + np.flatnonzero(here)
        mine = (slot for slot, key in zip(taken.tolist(), self._key[taken], strict=True) if key.startswith(prefix))
        return list(islice(mine, size))
