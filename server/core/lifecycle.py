"""The life of one model's sessions, in its parts."""

from gatestream.server.config import Limits
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.engine import Engine
from gatestream.server.core.held import HeldSessions
from gatestream.server.core.named import NamedSessions
from gatestream.server.core.opening import Opening
from gatestream.server.core.registry import Registry
from gatestream.server.core.sequences import Sequences
from gatestream.server.durability.leases import Leases


class Lifecycle:
    """Who has which session of one model. Whatever concerns one that may have steps pending happens in its turn.

    Args:
        engine: of the model.
        limits: of the server.
        accounts: of the tenants.
        leases: who may have which session, of all who serve it.
        checkpointer: of the server; None: every session ends with its stream.
        version: of the model.

    Attributes:
        registry: which sessions there are.
        held: what streams ask of those that they hold.
        opening: gives them to streams.
        sequences: those that no stream holds.
        named: what is asked of them by name.
        expiry: ends them when their time is over.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        accounts: Accounts,
        leases: Leases | None = None,
        checkpointer: Checkpointer | None = None,
        version: str = "",
    ):
        self.registry = Registry(engine, limits, accounts, leases, checkpointer, version)
        self.held = HeldSessions(self.registry)
        self.opening = Opening(self.registry, self.held)
        self.sequences = Sequences(self.registry, self.held)
        self.named = NamedSessions(self.registry)
        self.expiry = self.registry.expiry
