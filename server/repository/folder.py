"""A folder of models, as other servers have it: NAME/VERSION/model.onnx, and NAME/config.pbtxt where there is one."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gatestream.server.errors import ArtifactError, ConfigError, NotFound, Reason, cut
from gatestream.server.repository.model_config import FILE, ModelConfig

_LONGEST_NAME: Final = 200
# As other servers take it: a number that begins with another digit than 0.
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)

Seen = tuple[tuple[object, ...], ...]
"""Other than before when one of a version's files has come, gone or changed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one version of a model lies.

    Attributes:
        name: of the model.
        version: of it.
        path: of its file.
        config: of the model.
        seen: as its files were when this was found out.
    """

    name: str
    version: str
    path: Path
    config: ModelConfig
    seen: Seen


class Folder:
    """A folder of models. Nothing outside it is read, whatever names and links say.

    Args:
        root: its path.

    Raises:
        ConfigError: there is no such folder.

    Attributes:
        root: the same, behind all links.
    """

    def __init__(self, root: Path):
        try:
            self.root = root.resolve(strict=True)
            _folders(self.root)
        except OSError as error:
            raise ConfigError(f"models is {root}, which is no folder that can be read: {error.strerror}") from error
        except RuntimeError:  # what pathlib raises, before Python 3.13
            raise ConfigError(f"models is {root}, which is no folder that can be read: a loop of links") from None

    def names(self) -> list[str]:
        """The models that there are, in order of their names."""
        return sorted(name for name in _folders(self.root) if _is_name(name))

    def versions(self, name: str) -> list[str]:
        """The versions of a model that there are, the oldest first.

        Raises:
            NotFound: there is no such model.
        """
        if not _is_name(name):
            raise NotFound(
                f"model name {cut(name)!r} is none; expected that of a folder of --models, without '/'",
                Reason.MODEL_UNKNOWN,
            )
        path = self._inside(self.root / name)
        if path is None or not path.is_dir():
            raise NotFound(f"no model {cut(name)!r} under --models", Reason.MODEL_UNKNOWN)
        return sorted((each for each in _folders(path) if _VERSION.fullmatch(each)), key=int)

    def config(self, name: str) -> ModelConfig:
        """The configuration of a model, empty where there is none.

        Raises:
            NotFound: there is no such model.
            ArtifactError: it cannot be used.
        """
        self.versions(name)
        path = self.root / name / FILE
        if not os.path.lexists(path):
            return ModelConfig()
        return ModelConfig.load(self._checked(path), name)

    def place(self, name: str, version: str) -> Place:
        """Where a version of a model lies.

        Raises:
            NotFound: there is none.
            ArtifactError: its configuration cannot be used, or a link leaves the folder.
        """
        versions = self.versions(name)
        if version not in versions:
            there = ", ".join(versions) or "none"
            raise NotFound(
                f"model {cut(name)!r} has no version {cut(version)!r} under --models; there is: {there}",
                Reason.MODEL_UNKNOWN,
            )
        seen = self.seen(name, version)
        config = self.config(name)
        path = self._checked(self.root / name / version / config.file)
        return Place(name, version, path, config, seen)

    def seen(self, name: str, version: str) -> Seen:
        """How the files of a version are now."""
        folder = self.root / name / version
        try:
            files = sorted(folder.iterdir())
        except OSError:
            files = []
        return tuple((str(path), *_state(path)) for path in (self.root / name / FILE, *files))

    def _checked(self, path: Path) -> Path:
        """A path behind its links.

        Raises:
            ArtifactError: it leads out of the folder, or nowhere.
        """
        found = self._inside(path)
        if found is None:
            raise ArtifactError(f"{path.relative_to(self.root)}: is not there, or is a link that leaves --models")
        return found

    def _inside(self, path: Path) -> Path | None:
        try:
            found = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return None
        return found if found.is_relative_to(self.root) else None


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_NAME and name.isprintable() and name[0] != "." and not {"/", "\\"} & set(name)


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # As of a loop of links.
        return False


def _state(path: Path) -> tuple[object, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    if not stat.S_ISREG(found.st_mode):
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
