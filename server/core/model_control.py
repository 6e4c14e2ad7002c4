"""What can be asked about which models are served, and in which versions."""

from dataclasses import dataclass
from typing import Any, Protocol

from gatestream.server.core.catalog import ModelState


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of a model.

    Attributes:
        name: of the model.
        version: of it.
        state: where it is in its life.
        error: why it could not be loaded; of one that is ready, why what stands in its place now could not be.
        sessions: of all tenants.
        fingerprint: of its weights; empty where it is not loaded.
        form: as its spec says; 0 where it is not loaded.
    """

    name: str
    version: str
    state: ModelState
    error: str = ""
    sessions: int = 0
    fingerprint: str = ""
    form: Any = 0


class ModelControl(Protocol):
    """Says which models are served, and changes it. With several workers, what is asked of one is done by all."""

    async def statuses(self) -> list[ModelStatus]:
        """What is served and what could be, ordered by name and version."""

    async def load(self, name: str, version: str = "", *, migrate: bool = False) -> tuple[ModelStatus, int]:
        """Have a version of a model served.

        Args:
            name: of the model.
            version: of it; empty: the newest that there is.
            migrate: move the sessions of its other versions to it.

        Returns:
            What it is now, and how many sessions were moved.

        Raises:
            NotFound: there is none.
            NotLoaded: it cannot be served, or sessions cannot be moved to it.
        """

    async def unload(self, name: str, version: str = "", seconds: float | None = None) -> list[ModelStatus]:
        """Have it served no more; returns before its sessions have ended.

        Args:
            name: of the model.
            version: of it; empty: all.
            seconds: that its sessions may go on; None: as the server is set.

        Raises:
            NotFound: there is none.
        """

    async def migrate(self, name: str, before: str = "", after: str = "") -> int:
        """Move sessions from one version of a model to another.

        Args:
            name: of the model.
            before: the version that they are on; empty: any that goes with the other.
            after: the version that they go to; empty: the newest that is ready.

        Returns:
            How many were moved.

        Raises:
            NotFound: there is none.
            NotLoaded: the versions have other weights, or other columns.
        """
