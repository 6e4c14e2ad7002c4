"""The models that one server serves, and where each is in its life."""

import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb  # noqa: TID251 (of a spec, for who asks what is served)
from gatestream.protos.layout import ModelLayout
from gatestream.server.backend.artifact import Artifact
from gatestream.server.backend.deterministic import DeterministicRunner
from gatestream.server.backend.runner import CPU, HostRunner, Runner, load_runner
from gatestream.server.backend.threads import Measured, measure
from gatestream.server.config import ServerConfig
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.engine import Engine
from gatestream.server.core.lifecycle import Lifecycle
from gatestream.server.cpus import cpus_available
from gatestream.server.durability.leases import Leases
from gatestream.server.errors import AlreadyExists, ConfigError, InvalidRequest, NotFound, Reason
from gatestream.server.telemetry import ModelNow, ModelStats, ServerStats, Totals

_LONGEST_NUMBER: Final = 18
_ABOUT_TO_STOP: Final = "the server is about to stop"


class ModelState(Enum):
    """Where a version of a model is in its life. Only a model repository knows of those that are unloaded or failed."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    UNLOADED = "unloaded"
    FAILED = "failed"


@dataclass(eq=False, slots=True)
class Model:
    """One version of a model, its step loop and its sessions.

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
    def name(self) -> str:
        """Of the model; its versions share it."""
        return self.spec.name

    @property
    def version(self) -> str:
        """Which of the model's it is."""
        return self.spec.version

    @property
    def precedence(self) -> tuple[bool, bool, int, int]:
        """The highest of a model's versions is the one that new sessions go to: the newest of those that take any.

        Versions that are whole numbers are in their order, behind all that are not, which are in that of their loading.
        """
        # An artifact may say anything of itself.
        numbered = self.version.isascii() and self.version.isdecimal() and len(self.version) <= _LONGEST_NUMBER
        return self.state is ModelState.READY, numbered, int(self.version) if numbered else 0, self.number

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
            versions={self.spec.version: self.runner.provider},
            attached=attached,
            detached=detached,
            sequences=sequences,
            parked=parked,
            most_sessions=sessions.slots,
            state_bytes=sessions.resident * self.layout.state_bytes,
            rows=engine.admission.rows,
            most_rows=engine.admission.most,
        )

    def drain(self, why: str) -> None:
        """Open no more sessions, and say why; those there are may go on."""
        self.state = ModelState.DRAINING
        self.lifecycle.registry.closed_for = why


class Catalog:
    """All models of a server, by number, and by name and version.

    A session's id is one session of a model, in whichever version that is.

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
        self._by_name: dict[str, list[Model]] = {}
        self._loading: set[tuple[str, str]] = set()
        # What versions counted that are there no more, by name.
        self._past: dict[str, ModelStats] = {}
        self._numbers = 0
        self._several = False

    def __getitem__(self, number: int) -> Model:
        return self._by_number[number]

    def __iter__(self) -> Iterator[Model]:
        return iter([self._by_number[number] for number in sorted(self._by_number)])

    def __len__(self) -> int:
        return len(self._by_number)

    # ---- Which there are ----------------------------------------------------------------------

    def reserve(self, name: str, version: str = "", *, again: bool = False) -> int:
        """Keep a name and version for a model that is being loaded; its number.

        Args:
            name: of the model.
            version: of it.
            again: it takes the place of the one that is there, whose sessions stay on that.

        Raises:
            ConfigError: there is one of this name and version, or one is being loaded.
        """
        there = not again and any(model.version == version for model in self._by_name.get(name, ()))
        if there or (name, version) in self._loading:
            raise ConfigError(
                f"a second model named {name!r} of version {version!r} was to be loaded; names or versions must differ"
            )
        self._loading.add((name, version))
        self._numbers += 1
        return self._numbers - 1

    def release(self, name: str, version: str = "") -> None:
        """The model of a reserved name and version was not loaded."""
        self._loading.discard((name, version))

    def add(self, model: Model) -> None:
        """Have a model found."""
        self._loading.discard((model.name, model.version))
        self._by_number[model.number] = model
        self._by_name.setdefault(model.name, []).append(model)
        model.lifecycle.registry.check_free = partial(self._check_free, model.name, model.number)
        if self.draining:
            model.drain(_ABOUT_TO_STOP)
        self._changed()

    def remove(self, model: Model) -> None:
        """Have a model found no more; it has no sessions."""
        assert not len(model.engine.sessions), "its sessions have ended"
        del self._by_number[model.number]
        self._by_name[model.name].remove(model)
        if not self._by_name[model.name]:
            del self._by_name[model.name]
        self._past.setdefault(model.name, ModelStats()).add(model.engine.counted())
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
            model.drain(_ABOUT_TO_STOP)

    def check(self) -> list[str]:
        """What does not add up: each difference, with the numbers."""
        found = [f"model {model.spec.name!r}: {each}" for model in self for each in model.engine.check()]
        return found + self.accounts.check(sum(model.engine.admission.rows for model in self))

    def totals(self) -> Totals:
        """A copy of all that is counted, and what there is now; the versions of a model together."""
        found = Totals(processes=1, reply_bytes=self.accounts.bytes, most_reply_bytes=self.accounts.most_bytes)
        found.server.add(self.stats)
        for name, stats in self._past.items():
            found.models.setdefault(name, ModelStats()).add(stats)
        for model in self:
            found.models.setdefault(model.name, ModelStats()).add(model.engine.counted())
            if model.name in found.now:
                found.now[model.name].add(model.now())
            else:
                found.now[model.name] = model.now()
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
            model.engine.sessions.tenants.forget_all_but(known)

    # ---- By name and version ------------------------------------------------------------------

    def find(self, name: str, version: str = "") -> Model:
        """The model of a name (empty: the only one) in a version (empty: the newest that takes sessions).

        Raises:
            NotFound: there is none, or none of this version.
            InvalidRequest: no name, and several models.
        """
        versions = self._versions(name)
        found = [model for model in versions if model.version == version] if version else versions
        if not found:
            there = ", ".join(repr(model.version) for model in versions)
            raise NotFound(
                f"model {versions[0].name!r} is here in version {there}, not {version[:140]!r}", Reason.MODEL_UNKNOWN
            )
        return found[-1] if len(found) == 1 else max(found, key=lambda model: model.precedence)

    def find_with(
        self, session_id: str, tenant: str, name: str, version: str = "", *, comes_back: bool = False
    ) -> Model:
        """As `find`, but where no version is asked for, the one that has a session already, if one has.

        Args:
            session_id: of the session; empty: none that is here.
            tenant: whose it is.
            name: of the model.
            version: of it.
            comes_back: whoever asks had the session, since when it may have been moved: the version that has it goes
                before the one that is asked for, and where that is no longer here, any does.

        Raises:
            NotFound, InvalidRequest: as `find`.
        """
        if session_id and (comes_back or not version):
            versions = self._versions(name)
            if len(versions) > 1:
                for model in versions:
                    if model.engine.sessions.tenants.get(tenant, session_id) is not None:
                        return model
            if comes_back and all(model.version != version for model in versions):
                version = ""
        return self.find(name, version)

    def versions(self, name: str) -> list[Model]:
        """The versions of a model (empty: the only one); the last is the one that new sessions go to.

        Raises:
            NotFound, InvalidRequest: as `find`.
        """
        return sorted(self._versions(name), key=lambda model: model.precedence)

    def others_of_weights(self, model: Model, fingerprint: str) -> list[Model]:
        """The other versions of a model that have weights of this fingerprint, the newest first."""
        versions = reversed(self.versions(model.name))
        return [each for each in versions if each is not model and each.layout.fingerprint == fingerprint]

    def all_versions(self) -> list[Model]:
        """Every version of every model, model by model; a model's as `versions` has them."""
        return [model for name in self._by_name for model in self.versions(name)]

    def has(self, session_id: str, tenant: str, name: str) -> bool:
        """Whether any version of a model has a session."""
        return any(
            model.engine.sessions.tenants.get(tenant, session_id) is not None for model in self._by_name.get(name, ())
        )

    def _versions(self, name: str) -> list[Model]:
        if not name and len(self._by_name) > 1:
            raise InvalidRequest(f"model is empty; name one of: {self._names()}", Reason.MODEL_UNKNOWN)
        found = self._by_name.get(name) if name else next(iter(self._by_name.values()), None)
        if found is None:
            raise NotFound(f"no model {name[:140]!r} here; there is: {self._names() or 'none'}", Reason.MODEL_UNKNOWN)
        return found

    def _names(self) -> str:
        return ", ".join(sorted(self._by_name))

    def _check_free(self, name: str, number: int, tenant: str, session_id: str) -> None:
        """See to it that no other version of a model has a session of this id.

        Raises:
            AlreadyExists: one has.
        """
        for other in self._by_name.get(name, ()):
            if other.number != number and other.engine.sessions.tenants.get(tenant, session_id) is not None:
                raise AlreadyExists(
                    f"session {session_id[:140]!r} exists, on version {other.version!r} of this model; resume it there "
                    "(no version named finds it), or choose another session_id"
                )


def build(
    artifact: Artifact,
    number: int,
    config: ServerConfig,
    accounts: Accounts,
    leases: Leases | None = None,
    threads: int | None = None,
    checkpointer: Checkpointer | None = None,
) -> Model:
    """Put a model onto its execution provider, with a step loop that does not run yet.

    Args:
        artifact: what to serve.
        number: of the model.
        config: of the server.
        accounts: of its tenants.
        leases: on sessions, where other workers serve the same models.
        threads: of a run, where another worker has measured already.
        checkpointer: of the server; None: every session ends with its stream.

    Raises:
        ArtifactError: the graph cannot be run.
        ProviderError: the execution provider cannot be had.
        ConfigError: not even one row fits the limits.
    """
    runner, measured = _runner(artifact, config, threads)
    # Only a session that a store knows can do without a slot.
    parked = 0 if checkpointer is None else config.limits.most_held - config.limits.sessions
    engine = Engine(
        artifact.layout,
        runner,
        config.limits,
        config.tick,
        time.monotonic,
        straight=config.straight_path,
        parked=parked,
    )
    lifecycle = Lifecycle(engine, config.limits, accounts, leases, checkpointer, artifact.spec.version)
    return Model(number, artifact.spec, engine, lifecycle, measured)


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
