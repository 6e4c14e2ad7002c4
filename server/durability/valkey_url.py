"""Where a Valkey or Redis server is, and how one gets in: from the URL of `--store`."""

from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio import ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from gatestream.server.errors import ConfigError

EXPECTED: Final = (
    "valkey://[[USER]:PASSWORD@]HOST[:PORT][/DB][?password-file=PATH] (valkeys:// by TLS, with ca-file=PATH)"
)
_PORT: Final = 6379
# Seconds until a server that does not answer counts as gone.
_PATIENCE: Final = 2.0


class _PasswordFile(CredentialProvider):
    """Reads the password again for each connection: it may be changed."""

    def __init__(self, path: Path, user: str | None):
        self._path = path
        self._user = user

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """As the client asks for them."""
        password = self._path.read_text().strip()
        return (password,) if self._user is None else (self._user, password)


def connect(url: str) -> tuple[ConnectionPool, str]:
    """Connections to a server, none of which is made yet, and what it is called without secrets.

    Raises:
        ConfigError: the URL is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _PORT
    except ValueError as error:
        raise ConfigError(f"store is no URL of a server ({error}); expected {EXPECTED}") from error
    shown = f"{parts.scheme}://{parts.hostname or ''}:{port}{parts.path}"
    database = parts.path.removeprefix("/") or "0"
    if not parts.hostname or not database.isascii() or not database.isdecimal() or parts.fragment:
        raise ConfigError(f"store is {shown!r}; expected {EXPECTED}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := options.keys() - {"password-file", "ca-file"}:
        raise ConfigError(f"store {shown!r} has the option {min(unknown)!r}; expected password-file or ca-file")
    settings: dict[str, Any] = _credentials(parts, options.get("password-file"), shown)
    if parts.scheme in ("valkeys", "rediss"):
        settings |= {"connection_class": SSLConnection, "ssl_ca_certs": options.get("ca-file")}
    elif "ca-file" in options:
        raise ConfigError(f"store {shown!r} has a ca-file without TLS; expected valkeys:// or rediss://")
    pool = ConnectionPool(
        host=parts.hostname,
        port=port,
        db=int(database),
        socket_timeout=_PATIENCE,
        socket_connect_timeout=_PATIENCE,
        # A claim whose answer was lost is not to be made twice.
        retry=Retry(NoBackoff(), 0),
        **settings,
    )
    return pool, shown


def _credentials(parts: SplitResult, file: str | None, shown: str) -> dict[str, Any]:
    user = unquote(parts.username) if parts.username else None
    if file is None:
        return {"username": user, "password": unquote(parts.password) if parts.password else None}
    if parts.password:
        raise ConfigError(f"store {shown!r} has a password and a password-file; expected one of them")
    path = Path(file)
    try:
        path.read_text()
    except (OSError, ValueError) as error:
        raise ConfigError(f"store {shown!r}: the password-file {file} cannot be read: {error}") from error
    return {"credential_provider": _PasswordFile(path, user)}
