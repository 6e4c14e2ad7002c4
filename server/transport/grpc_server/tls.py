"""What the server shows to those who connect over TLS, renewed while it serves."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import structlog

from gatestream.server.config import ServerConfig
from gatestream.server.reload import Reloaded
from gatestream.server.transport.certificates import concern, read_authorities, read_pair

_log = structlog.get_logger(__name__)


class Tls(Reloaded):
    """A certificate chain, its key, and the authorities whose clients are taken.

    Args:
        chain: file of the one,
        key: and of the other.
        client_ca: file of the authorities; None: clients need no certificate.

    Raises:
        ConfigError: as `read`.
    """

    def __init__(self, chain: Path, key: Path, client_ca: Path | None):
        super().__init__("TLS certificate", [path for path in (chain, key, client_ca) if path is not None])
        self._chain = chain
        self._key = key
        self._client_ca = client_ca
        self._times = 0
        self.refresh()

    @classmethod
    def of(cls, config: ServerConfig) -> "Tls | None":
        """What a server is configured for; None: to be spoken to in clear.

        Raises:
            ConfigError: as `read`.
        """
        if config.tls_cert is None or config.tls_key is None:
            return None
        return cls(config.tls_cert, config.tls_key, config.tls_client_ca)

    def read(self) -> None:
        """Read the files. Connections that are made from now on see what they hold; those that are there go on.

        Raises:
            ConfigError: a file is not what it should be; nothing has changed.
        """
        pair = read_pair(self._chain, self._key)
        authorities = None if self._client_ca is None else read_authorities(self._client_ca, "tls_client_ca")
        self._shown = grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)], authorities)
        self._times += 1
        self.remind()

    def remind(self) -> None:
        """Log when clients refuse the certificate, or soon will."""
        try:
            why = concern(self._chain, self._key, datetime.now(UTC))
        except OSError as error:
            # They are another pair by now, or none.
            why = f"it cannot be looked at: {error}"
        if why:
            _log.warning("the TLS certificate needs to be replaced", file=str(self._chain), why=why)

    def credentials(self) -> grpc.ServerCredentials:
        """For a port; whoever connects to it is shown what was read last."""
        times = self._times

        # gRPC asks at each handshake, in a thread of its own; None, which its types leave out: nothing has changed.
        def fetch() -> Any:
            nonlocal times
            if times == self._times:
                return None
            times = self._times
            return self._shown

        return grpc.dynamic_ssl_server_credentials(
            self._shown, fetch, require_client_authentication=self._client_ca is not None
        )
