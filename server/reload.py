"""Files that are read again when they change."""

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from gatestream.server.errors import ConfigError

_PERIOD_SECONDS: Final = 1.0
_REMINDER_PERIODS: Final = 86_400

_log = structlog.get_logger(__name__)


class Reloaded(ABC):
    """What is read from files, at the start and whenever they have changed since.

    Args:
        name: what it is in the log.
        files: that it is read from.
    """

    def __init__(self, name: str, files: Sequence[Path]):
        self.name = name
        self.files = files
        self._seen: object = None

    @abstractmethod
    def read(self) -> None:
        """Read the files.

        Raises:
            ConfigError: they are not what they should be; nothing has changed.
        """

    def remind(self) -> None:  # noqa: B027 (little is so)
        """Log what is wrong with it that only time brings about; called once a day."""

    def refresh(self) -> bool:
        """Read the files if they have changed, and say whether they have.

        Raises:
            ConfigError: as `read`; the files are not read again before they have changed again.
        """
        # Looked at before they are read: what changes meanwhile is another change.
        state = [_state(path) for path in self.files]
        if state == self._seen:
            return False
        self._seen = state
        self.read()
        return True


async def keep_fresh(items: Sequence[Reloaded]) -> None:
    """Read again whatever has changed, for ever. What cannot be used is logged, and what was read before is kept."""
    for period in itertools.count(1):
        await asyncio.sleep(_PERIOD_SECONDS)
        for item in items:
            try:
                if item.refresh():
                    _log.info("reloaded", what=item.name, files=[str(path) for path in item.files])
            except ConfigError as error:
                _log.error("not reloaded; what was read before stays in force", what=item.name, error=str(error))
            except Exception:
                # A fault of this server's own is no reason for it to end.
                _log.exception("not reloaded; what was read before stays in force", what=item.name)
            if period % _REMINDER_PERIODS == 0:
                item.remind()


def _state(path: Path) -> Any:
    """Other than before when the file was written to, replaced, or given other rights, also behind a link."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
