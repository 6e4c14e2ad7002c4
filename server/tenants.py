"""Whose sessions a call may see: bearer tokens, and the tenant that each stands for."""

import hashlib
import tomllib
from collections.abc import Iterable
from pathlib import Path

from gatestream.server.errors import ConfigError, Unauthenticated

_HEADER = "authorization"
_SCHEME = "bearer "


class Tenants:
    """Who is known. With no tokens there is one tenant, and everyone who can connect is it.

    Args:
        tokens: token to tenant.
    """

    def __init__(self, tokens: dict[str, str]):
        # Looked up by digest: the time that a lookup takes tells nothing of the tokens.
        self._tenant_of = {_digest(token): tenant for token, tenant in tokens.items()}

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return len(set(self._tenant_of.values())) > 1

    @classmethod
    def load(cls, path: Path | None) -> "Tenants":
        """Read a TOML file of lines `"token" = "tenant"`.

        Raises:
            ConfigError: the file cannot be read, or holds anything else.
        """
        if path is None:
            return cls({})
        try:
            tokens = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"tokens: {path}: {error}") from error
        for token, tenant in tokens.items():
            if not isinstance(tenant, str) or not tenant or "/" in tenant or len(token) < 16:
                raise ConfigError(
                    f'tokens: {path}: expected lines of "token" = "tenant", the token of at least 16 characters, '
                    f"the tenant's name not empty and without '/'; the line for tenant {tenant!r} is not so"
                )
        if not tokens:
            raise ConfigError(f"tokens: {path}: holds no token, so nobody could call")
        return cls(tokens)

    def of(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """The tenant that a call's metadata speaks for.

        Raises:
            Unauthenticated: tokens are required, and the call has none that is known.
        """
        if not self._tenant_of:
            return ""
        for key, value in metadata:
            if key == _HEADER and isinstance(value, str) and value[: len(_SCHEME)].lower() == _SCHEME:
                tenant = self._tenant_of.get(_digest(value[len(_SCHEME) :]))
                if tenant is not None:
                    return tenant
                raise Unauthenticated("the bearer token is not known to this server")
        raise Unauthenticated('the call carries no token; expected metadata "authorization: Bearer TOKEN"')


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
