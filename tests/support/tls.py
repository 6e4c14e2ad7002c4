"""Certificates for a test."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import grpc
import trustme


@dataclass
class Files:
    """An authority, and certificates from it, as files of one folder."""

    folder: Path
    authority: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.ca.write_bytes(self.authority.cert_pem.bytes())

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def issue(
        self, name: str, *, since: datetime | None = None, until: datetime | None = None, common_name: str = ""
    ) -> tuple[Path, Path]:
        """Write a certificate for this machine, and its key: NAME.pem and NAME.key."""
        issued = self.authority.issue_cert(
            "127.0.0.1", "localhost", not_before=since, not_after=until, common_name=common_name or name
        )
        chain, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return chain, key

    def trusting(self, pair: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
        """What a client connects with that trusts the authority, and shows a certificate if there is one."""
        chain, key = (None, None) if pair is None else (path.read_bytes() for path in pair)
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), key, chain)
