"""The life of one model's sessions, in its parts."""

from gatestream.server.config import Limits
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.claims import Claims
from gatestream.server.core.engine import Engine
from gatestream.server.core.expiry import Expiry
from gatestream.server.core.held import HeldSessions
from gatestream.server.core.kept import KeptSessions
from gatestream.server.core.named import NamedSessions
from gatestream.server.core.opening import Opening
from gatestream.server.core.places import Places
from gatestream.server.core.registry import Registry
from gatestream.server.core.residence import Residence
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
        expiry: ends them when their time is over.
        kept: those that the store knows; None: there is no store.
        residence: which of these have a slot.
        places: gives them their places.
        held: what streams ask of those that they hold.
        opening: gives them to streams.
        sequences: those that no stream holds.
        named: what is asked of them by name.
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
        # None of these has one that stands below it: with cycles, what is unloaded would stay.
        self.registry = Registry(engine, accounts, leases, checkpointer)
        end = self.registry.end
        self.expiry = Expiry(engine, limits, end)
        claims: Claims | None = None
        self.kept: KeptSessions | None = None
        self.residence: Residence | None = None
        if checkpointer is not None:
            self.kept = KeptSessions(engine, version, checkpointer, end)
            claims = Claims(engine, self.kept, checkpointer, end)
            self.residence = Residence(engine, accounts, self.kept, checkpointer, end, self.kept.put)
        self.places = Places(self.registry, self.expiry, self.residence)
        self.held = HeldSessions(self.registry, self.places, self.kept)
        self.opening = Opening(self.registry, self.places, self.held, claims)
        self.sequences = Sequences(self.registry, self.places, self.held, claims, self.expiry.sequence_timeout)
        self.named = NamedSessions(self.registry, self.places, self.kept)
