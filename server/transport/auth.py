"""Whose sessions a call may see: bearer tokens, and the tenant that each stands for."""

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from gatestream.server.errors import ConfigError, Unauthenticated
from gatestream.server.reload import Reloaded

_HEADER = "authorization"
_SCHEME = "bearer "
# What can stand in a header, and fits into one.
_TOKEN: Final = re.compile(r"[!-~]{16,4096}")
_LONGEST_NAME: Final = 128

_log = structlog.get_logger(__name__)


class Caller(NamedTuple):
    """Who calls.

    Attributes:
        tenant: whose sessions the call may see.
        shown: the digest of the token that was shown.
        admin: whether it may say which models are served.
    """

    tenant: str
    shown: bytes
    admin: bool = False


_ANYONE: Final = Caller("", b"", admin=True)

CALLER: Final[ContextVar[Caller]] = ContextVar("caller")
"""Of the call that the current task is for. gRPC makes Python objects of all its metadata, which may be megabytes,
whenever it is asked for them: so they are looked at once."""


class Tenants(Reloaded):
    """Who is known. With no tokens there is one tenant, and everyone who can connect is it.

    Args:
        path: a TOML file of lines `"token" = "tenant"`, or `"token" = { tenant = "tenant", admin = true }`; None: no
            tokens.

    Raises:
        ConfigError: as `read`.

    Attributes:
        changed: each is called when other tokens are known than before.
        names: of the tenants.
        several: there is more than one.
    """

    def __init__(self, path: Path | None):
        super().__init__("tokens", [] if path is None else [path])
        # Looked up by digest: the time that a lookup takes tells nothing of the tokens, which are kept nowhere.
        self._caller_of: dict[bytes, Caller] = {}
        self.names = frozenset({_ANYONE.tenant})
        self.several = False
        self.changed: list[Callable[[], None]] = []
        self.refresh()

    def read(self) -> None:
        """Read the file.

        Raises:
            ConfigError: it cannot be read, others than its owner can write it, or it holds anything but tokens and
                names of tenants; what is known is what was known before.
        """
        for path in self.files:
            digests = {_digest(token): entry for token, entry in _read(path).items()}
            self._caller_of = {digest: Caller(tenant, digest, admin) for digest, (tenant, admin) in digests.items()}
            self.names = frozenset(caller.tenant for caller in self._caller_of.values())
            self.several = len(self.names) > 1
            for tell in self.changed:
                tell()

    def caller(self, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Whom a call's metadata speaks for.

        Raises:
            Unauthenticated: tokens are required, and the call has none that is known.
        """
        if not self._caller_of:
            return _ANYONE
        for key, value in metadata:
            if key == _HEADER and isinstance(value, str) and value[: len(_SCHEME)].lower() == _SCHEME:
                caller = self._caller_of.get(_digest(value[len(_SCHEME) :]))
                if caller is not None:
                    return caller
                raise Unauthenticated("the bearer token is not known to this server")
        raise Unauthenticated('the call carries no token; expected metadata "authorization: Bearer TOKEN"')

    def knows(self, tenant: str, shown: bytes) -> bool:
        """Whether a caller, as `caller` said who it is, would be the same now."""
        return self._caller_of.get(shown, _ANYONE).tenant == tenant


def _read(path: Path) -> dict[str, tuple[str, bool]]:
    """Of each token the tenant, and whether it is an admin's."""
    try:
        # Without waiting for whoever may write to a pipe.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            _check_rights(path, os.fstat(file.fileno()))
            tokens = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"tokens: {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # what tomllib raises for other than TOML, and for too much of it
        raise ConfigError(f"tokens: {path} is no TOML file: {error}") from error
    if not tokens:
        raise ConfigError(f"tokens: {path} holds no token, so nobody could call")
    # Of what is wrong nothing is shown: it may be a token.
    found = {}
    for number, (token, entry) in enumerate(tokens.items(), 1):
        if not _TOKEN.fullmatch(token):
            raise ConfigError(
                f'tokens: {path}: the token of entry {number} has {len(token)} characters; expected "token" = "tenant" '
                "with a token of 16 to 4,096 characters, all of ASCII and none of them a space"
            )
        admin: Any = False
        tenant = entry
        if isinstance(entry, dict):
            tenant, admin = entry.get("tenant"), entry.get("admin", False)
            if not entry.keys() <= {"tenant", "admin"} or not isinstance(admin, bool):
                raise ConfigError(
                    f"tokens: {path}: entry {number} is a table of other things than tenant and admin; expected "
                    '"token" = { tenant = "tenant", admin = true }'
                )
        if (
            not (isinstance(tenant, str) and 1 <= len(tenant) <= _LONGEST_NAME and tenant.isprintable())
            or "/" in tenant
        ):
            raise ConfigError(
                f"tokens: {path}: the tenant of entry {number} is not 1 to {_LONGEST_NAME} printable characters "
                "without '/'"
            )
        found[token] = tenant, admin
    return found


def _check_rights(path: Path, status: os.stat_result) -> None:
    mode = stat.filemode(status.st_mode)
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"tokens: {path} belongs to user {status.st_uid}, who could add tokens; expected root, or the "
            f"server's own user {os.geteuid()}"
        )
    if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"tokens: {path} can be written by others than its owner ({mode}); chmod go-w {path}")
    if status.st_mode & stat.S_IROTH:
        _log.warning("every user of this machine can read the tokens file", file=str(path), mode=mode)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
