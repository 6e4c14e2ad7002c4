"""What each tenant holds, and what all of them hold together, against their bounds."""

from collections.abc import Container
from typing import Final, NamedTuple

from gatestream.server.config import Limits, Share

ITEM_BYTES: Final = 256
"""What a row that is queued, or a message that waits to be sent, takes besides its own bytes."""


def share(own: Share, everything: int, several: bool, least: int = 1) -> int:
    """What one tenant may have of something: as set; "auto" is all for a tenant that is alone, else half."""
    if own != "auto":
        return own
    return max(everything // 2, least) if several else everything


class Shares(NamedTuple):
    """What one tenant may hold: sessions of each model, streams, rows not yet computed, bytes as in `Account`."""

    sessions: int
    streams: int
    rows: int
    reply_bytes: int

    @classmethod
    def of(cls, limits: Limits, models: int, *, several: bool) -> "Shares":
        """As the limits say; "auto" is all for a tenant that is alone, else half.

        Args:
            limits: of the server.
            models: that it serves.
            several: there is more than one tenant.
        """
        return cls(
            share(limits.tenant_sessions, limits.sessions, several),
            share(limits.tenant_streams, limits.streams, several),
            # What one stream may have, its client counts on.
            share(limits.tenant_rows, models * limits.rows, several, limits.rows_per_stream),
            share(limits.tenant_reply_bytes, limits.reply_bytes, several, limits.reply_bytes_per_stream),
        )


class Account:
    """What one tenant holds now.

    Bytes are those of answers that are not sent yet, and of rows that are not computed yet: their inputs, and the
    answers that they will have.

    Attributes:
        everyone: the accounts that this is one of.
        most_rows: that it may have pending.
        most_bytes: that it may hold.
    """

    __slots__ = ("bytes", "everyone", "most_bytes", "most_rows", "rows", "streams")

    def __init__(self, everyone: "Accounts"):
        self.everyone = everyone
        self.most_rows = everyone.most.rows
        self.most_bytes = everyone.most.reply_bytes
        self.streams = 0
        self.rows = 0
        self.bytes = 0

    def hold(self, size: int) -> None:
        """Count bytes."""
        self.bytes += size
        self.everyone.bytes += size

    @property
    def holds(self) -> bool:
        """Whether the tenant holds anything."""
        return bool(self.streams or self.rows or self.bytes)

    @property
    def over(self) -> bool:
        """Whether more bytes are held than may be, by this tenant or by all."""
        return self.bytes > self.most_bytes or self.everyone.bytes > self.everyone.most_bytes


class Accounts:
    """The accounts of all tenants.

    Args:
        limits: of the server.

    Attributes:
        models: that are served.
        bytes: of all tenants.
        most_bytes: that they may be.
        most: what each tenant may hold.
    """

    __slots__ = ("_limits", "_of", "bytes", "models", "most", "most_bytes")

    def __init__(self, limits: Limits):
        self._limits = limits
        self.models = 1
        self._of: dict[str, Account] = {}
        self.bytes = 0
        self.most_bytes = limits.reply_bytes
        self.most = Shares.of(limits, self.models, several=False)

    def of(self, tenant: str) -> Account:
        """A tenant's."""
        account = self._of.get(tenant)
        if account is None:
            account = self._of[tenant] = Account(self)
        return account

    def forget_all_but(self, known: Container[str]) -> None:
        """Drop the accounts of tenants that are not known any more, and hold nothing."""
        self._of = {tenant: account for tenant, account in self._of.items() if tenant in known or account.holds}

    def check(self, pending: int) -> list[str]:
        """What does not add up.

        Args:
            pending: rows of all models that are not computed yet.
        """
        found = []
        if (rows := sum(account.rows for account in self._of.values())) != pending:
            found.append(f"tenants have {rows} rows pending, models {pending}")
        if (held := sum(account.bytes for account in self._of.values())) != self.bytes:
            found.append(f"tenants hold {held} bytes, all together {self.bytes}")
        found += [
            f"a tenant has {account.streams} streams, {account.rows} rows and {account.bytes} bytes"
            for account in self._of.values()
            if min(account.streams, account.rows, account.bytes) < 0
        ]
        return found

    def divide(self, *, several: bool) -> None:
        """Set what each may hold.

        Args:
            several: there is more than one tenant.
        """
        self.most = Shares.of(self._limits, self.models, several=several)
        for account in self._of.values():
            account.most_rows = self.most.rows
            account.most_bytes = self.most.reply_bytes
