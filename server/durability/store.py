"""Where the states of parked sessions are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SessionState:
    """What a session has come to, to be kept, or put into another.

    Attributes:
        weights_fingerprint: of the model; for other weights it means nothing.
        position: steps that led to it.
        rows: for each of the model's states the bytes of its row.
    """

    weights_fingerprint: str
    position: int
    rows: Sequence[bytes]


class Store(Protocol):
    """The states of sessions by tenant and session id. Any call may take its time, and raise what it cannot do."""

    async def put(self, tenant: str, session_id: str, state: SessionState) -> None:
        """Keep a state, in place of an earlier one of that session."""

    async def get(self, tenant: str, session_id: str) -> SessionState:
        """The state that was kept last.

        Raises:
            NotFound: none is kept.
        """

    async def delete(self, tenant: str, session_id: str) -> None:
        """Forget a session, if it is known."""
