"""Files that are no artifacts yet: what is made of them, in a process of its own, with bounds on time and memory."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import resource
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import structlog

from gatestream.files.marks import is_made_here
from gatestream.files.reading import open_regular
from gatestream.server.config import ServerConfig
from gatestream.server.errors import ArtifactError, cut
from gatestream.server.repository.adopt_flags import WITH_VALUE, WRITTEN
from gatestream.server.repository.folder import Place
from gatestream.server.repository.model_config import FILE

_LONGEST: Final = 500
# One of those that a folder can give.
_NAMES_FLAG: Final = re.compile(rf"--({'|'.join(WITH_VALUE)}) ")
_MOST_SAID: Final = 2**16
_NO_MEMORY: Final = ("MemoryError", "bad_alloc", "memory", "failed to map")

_log = structlog.get_logger(__name__)


class Adopting:
    """Makes artifacts of files that others made.

    Args:
        config: of the server.
        cache: where what was made is kept; the processes of a server share it.
    """

    def __init__(self, config: ServerConfig, cache: Path):
        self._seconds = config.adopt_seconds
        self._bytes = config.adopt_mib * 2**20
        self._cache = cache

    async def artifact(self, place: Place) -> Path:
        """The artifact of a version of a model: its file, or what is made of it.

        Raises:
            ArtifactError: none can be made; why, in one line.
        """
        flags = [f"--name={place.name}", f"--model-version={place.version}", *place.config.flags()]
        try:
            return await self.artifact_of(place.path, flags)
        except ArtifactError as error:
            if not _NAMES_FLAG.search(str(error)):
                raise
            raise ArtifactError(
                f"{cut(str(error), _LONGEST)}; flags stand in {place.name}/{FILE}: {WRITTEN}"
            ) from error

    async def artifact_of(self, path: Path, flags: Sequence[str] = ()) -> Path:
        """The artifact in a file, or what is made of it.

        Args:
            path: of the file.
            flags: for `gatestream adopt`.

        Raises:
            ArtifactError: none can be made; why, in one line.
        """
        try:
            if await asyncio.to_thread(is_made_here, path, "artifact"):
                return path
            return await self._adopted(path, flags)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be adopted: {error.strerror or error}") from error

    async def _adopted(self, path: Path, flags: Sequence[str]) -> Path:
        digest = await asyncio.to_thread(_digest, path, flags)
        made = self._cache / f"{digest}.onnx"
        # One process makes it, and the others wait for it.
        with contextlib.closing(await asyncio.to_thread(_Lock, self._cache / f"{digest}.lock")):
            if not made.exists():
                part = self._cache / f"{digest}.part.onnx"
                try:
                    await self._adopt(path, part, flags)
                    part.replace(made)
                finally:
                    part.unlink(missing_ok=True)
        return made

    async def _adopt(self, path: Path, output: Path, flags: Sequence[str]) -> None:
        _log.info("adopting", file=str(path), flags=list(flags))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gatestream.cli", "adopt", str(path), "-o", str(output), "--force", *flags),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            # It imports from where this one did, and not from the folder that this one happens to be in.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )
        assert process.stdout is not None and process.stderr is not None, "both were asked for"  # noqa: PT018
        try:
            with contextlib.suppress(ProcessLookupError):  # It has ended.
                resource.prlimit(process.pid, resource.RLIMIT_AS, (self._bytes, self._bytes))
            async with asyncio.timeout(self._seconds):
                found, said = await asyncio.gather(_read(process.stdout), _read(process.stderr))
                status = await process.wait()
        except TimeoutError:
            raise ArtifactError(
                f"{path}: was not adopted within {self._seconds:g} s (--adopt-seconds); adopt it beforehand: "
                "gatestream adopt"
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError):  # With what it has started itself.
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if status:
            text = said.decode(errors="replace")
            lines = [line for line in text.splitlines() if line.strip()]
            why = lines[-1].removeprefix("Error: ").removeprefix(f"{path}: ") if lines else "it said nothing"
            how = f"killed by signal {-status}" if status < 0 else f"status {status}"
            if status < 0 or any(each in text for each in _NO_MEMORY):
                how += f"; it may use {self._bytes >> 20} MiB of memory (--adopt-mib)"
            raise ArtifactError(f"{path}: gatestream adopt: {cut(why, _LONGEST)} ({how})")
        _log.info("adopted", file=str(path), found=found.decode(errors="replace").splitlines()[:-1])


class _Lock:
    """A file that one process has locked at a time; waits for it. Closed it is given back."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def close(self) -> None:
        """Let another have it."""
        os.close(self._file)


async def _read(stream: asyncio.StreamReader) -> bytes:
    """The end of all that comes."""
    said = b""
    while part := await stream.read(_MOST_SAID):
        said = (said + part)[-_MOST_SAID:]
    return said


def _digest(path: Path, flags: Sequence[str]) -> str:
    """Of a file, of how it is adopted, and of when the files beside it changed: weights may lie there."""
    digest = hashlib.sha256("\0".join([path.name, *flags]).encode())
    with open_regular(path) as opened:
        while part := opened.read(2**20):
            digest.update(part)
    for file in _files(path.parent):
        found = file.stat()
        digest.update(f"\0{file.name}\0{found.st_size}\0{found.st_mtime_ns}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file())
