"""The models that one server serves, and where each is in its life."""

import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from enum import Enum

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb  # noqa: TID251 (of a spec, for who asks what is served)
from gatestream.protos.layout import ModelLayout
from gatestream.server.backend.artifact import Artifact
from gatestream.server.backend.deterministic import DeterministicRunner
from gatestream.server.backend.runner import CPU, HostRunner, Runner, load_runner
from gatestream.server.backend.threads import Measured, measure
from gatestream.server.config import ServerConfig
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.engine import Engine
from gatestream.server.core.lifecycle import Lifecycle
from gatestream.server.cpus import cpus_available
from gatestream.server.durability.leases import Leases
from gatestream.server.errors import ConfigError, InvalidRequest, NotFound, Reason
from gatestream.server.telemetry import ModelNow, ModelStats, ServerStats, Totals


class ModelState(Enum):
    """Where a model is in its life."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    UNLOADED = "unloaded"


@dataclass(eq=False, slots=True)
class Model:
    """One model, its step loop and its sessions.

    Attributes:
        number: of it alone, in the life of this server.
        measured: how many threads its runs have, and what that was chosen by.
    """

    number: int
    spec: pb.ModelSpec
    engine: Engine
    lifecycle: Lifecycle
    measured: Measured
    state: ModelState = ModelState.LOADING

    @property
    def layout(self) -> ModelLayout:
        """Its columns, states and gates."""
        return self.engine.layout

    @property
    def runner(self) -> Runner:
        """What makes its runs."""
        return self.engine.rows.runner

    @property
    def on_cpu(self) -> bool:
        """Whether its runs are made there, and not on a GPU."""
        return self.runner.provider == CPU

    def now(self) -> ModelNow:
        """What there is of it."""
        engine, sessions = self.engine, self.engine.sessions
        attached, detached, sequences, parked = sessions.census()
        return ModelNow(
            version=self.spec.version,
            provider=self.runner.provider,
            attached=attached,
            detached=detached,
            sequences=sequences,
            parked=parked,
            most_sessions=len(sessions.phase),
            state_bytes=sessions.resident * self.layout.state_bytes,
            rows=engine.admission.rows,
            most_rows=engine.admission.most,
        )

    def drain(self, why: str) -> None:
        """Open no more sessions, and say why; those there are may go on."""
        self.state = ModelState.DRAINING
        self.lifecycle.closed_for = why


class Catalog:
    """All models of a server, by number and by name.

    Args:
        accounts: of the tenants.
        straight: streams parse every message (`ServerConfig.straight_path`).

    Attributes:
        draining: the server is about to stop and opens no more sessions.
        stopped: nor does it take steps.
        most_state_bytes: of a session of any of them.
        stats: what is counted of the server.
    """

    def __init__(self, accounts: Accounts, *, straight: bool = False):
        self.accounts = accounts
        self.straight = straight
        self.stats = ServerStats()
        self.draining = False
        self.stopped = False
        self.most_state_bytes = 0
        self._by_number: dict[int, Model] = {}
        self._by_name: dict[str, Model] = {}
        self._loading: set[str] = set()
        self._numbers = 0
        self._several = False

    def __getitem__(self, number: int) -> Model:
        return self._by_number[number]

    def __iter__(self) -> Iterator[Model]:
        return iter(list(self._by_number.values()))

    def __len__(self) -> int:
        return len(self._by_number)

    # ---- Which there are ----------------------------------------------------------------------

    def reserve(self, name: str) -> int:
        """Keep a name for a model that is being loaded; its number.

        Raises:
            ConfigError: there is one of this name.
        """
        if name in self._by_name or name in self._loading:
            raise ConfigError(f"a second model named {name!r} was to be loaded; names must differ")
        self._loading.add(name)
        self._numbers += 1
        return self._numbers - 1

    def release(self, name: str) -> None:
        """The model of a reserved name was not loaded."""
        self._loading.discard(name)

    def add(self, model: Model) -> None:
        """Have a model found."""
        self._loading.discard(model.spec.name)
        self._by_number[model.number] = model
        self._by_name[model.spec.name] = model
        self._changed()

    def remove(self, model: Model) -> None:
        """Have a model found no more; it has no sessions."""
        assert not len(model.engine.sessions), "its sessions have ended"
        del self._by_number[model.number], self._by_name[model.spec.name]
        model.state = ModelState.UNLOADED
        self._changed()

    def _changed(self) -> None:
        self.most_state_bytes = max((model.layout.state_bytes for model in self), default=0)
        self.accounts.models = len(self)
        self.divide(several=self._several)

    def drain(self) -> None:
        """Open no more sessions of any model: the server is about to stop."""
        self.draining = True
        for model in self:
            model.drain("the server is about to stop")

    def check(self) -> list[str]:
        """What does not add up: each difference, with the numbers."""
        found = [f"model {model.spec.name!r}: {each}" for model in self for each in model.engine.check()]
        return found + self.accounts.check(sum(model.engine.admission.rows for model in self))

    def totals(self) -> Totals:
        """A copy of all that is counted, and what there is now."""
        found = Totals(processes=1, reply_bytes=self.accounts.bytes, most_reply_bytes=self.accounts.most_bytes)
        found.server.add(self.stats)
        for model in self:
            name = model.spec.name
            found.models[name] = ModelStats()
            found.models[name].add(model.engine.counted())
            found.now[name] = model.now()
        return found

    # ---- Tenants ------------------------------------------------------------------------------

    def divide(self, *, several: bool) -> None:
        """Set what each tenant may have.

        Args:
            several: there is more than one.
        """
        self._several = several
        self.accounts.divide(several=several)
        for model in self:
            model.engine.sessions.share = self.accounts.most.sessions

    def forget_all_but(self, known: Container[str]) -> None:
        """Drop what is kept of tenants that are not known any more, and hold nothing."""
        self.accounts.forget_all_but(known)
        for model in self:
            model.engine.sessions.forget_all_but(known)

    def find(self, name: str, version: str = "") -> Model:
        """The model of a name (empty: the only one) and version (empty: any).

        Raises:
            NotFound: there is none, or the one there is has another version.
            InvalidRequest: no name, and several models.
        """
        served = ", ".join(sorted(self._by_name))
        if not name and len(self) > 1:
            raise InvalidRequest(f"model is empty; name one of: {served}", Reason.MODEL_UNKNOWN)
        model = self._by_name.get(name) if name else next(iter(self), None)
        if model is None:
            raise NotFound(f"no model {name[:140]!r} here; there is: {served or 'none'}", Reason.MODEL_UNKNOWN)
        if version and version != model.spec.version:
            raise NotFound(
                f"model {model.spec.name!r} is here in version {model.spec.version!r}, not {version[:140]!r}",
                Reason.MODEL_UNKNOWN,
            )
        return model


def build(
    artifact: Artifact,
    number: int,
    config: ServerConfig,
    accounts: Accounts,
    leases: Leases | None = None,
    threads: int | None = None,
) -> Model:
    """Put a model onto its execution provider, with a step loop that does not run yet.

    Args:
        artifact: what to serve.
        number: of the model.
        config: of the server.
        accounts: of its tenants.
        leases: on sessions, where other workers serve the same models.
        threads: of a run, where another worker has measured already.

    Raises:
        ArtifactError: the graph cannot be run.
        ProviderError: the execution provider cannot be had.
        ConfigError: not even one row fits the limits.
    """
    runner, measured = _runner(artifact, config, threads)
    engine = Engine(artifact.layout, runner, config.limits, config.tick, time.monotonic, straight=config.straight_path)
    return Model(number, artifact.spec, engine, Lifecycle(engine, config.limits, accounts, leases), measured)


def _runner(artifact: Artifact, config: ServerConfig, known: int | None) -> tuple[Runner, Measured]:
    capacity = config.limits.sessions
    provider = config.provider

    def load(threads: int) -> Runner:
        nonlocal provider
        if config.deterministic:
            return HostRunner(artifact, capacity, threads, straight=config.straight_path)
        runner = load_runner(artifact, capacity, provider, threads, straight=config.straight_path)
        if runner.provider == CPU:
            # What was found not to be there is not looked for again.
            provider = "cpu"
        return runner

    if known is None and config.threads == "auto":
        cpus = max(1, cpus_available() // config.workers)
        runner, measured = measure(load, artifact.layout, min(capacity, config.tick.rows), cpus)
    else:
        threads = known or max(1, int(config.threads) // config.workers)
        runner, measured = load(threads), Measured(threads)
    if isinstance(runner, HostRunner) and config.deterministic:
        runner = DeterministicRunner(runner, artifact.spec, config.tick)
    return runner, measured
