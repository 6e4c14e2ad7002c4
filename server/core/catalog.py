"""The models that one server serves."""

import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb  # noqa: TID251 (of a spec, for who asks what is served)
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


@dataclass(frozen=True, slots=True)
class Model:
    """One model, its step loop and its sessions.

    Attributes:
        measured: how many threads its runs have, and what that was chosen by.
    """

    number: int
    spec: pb.ModelSpec
    engine: Engine
    lifecycle: Lifecycle
    measured: Measured

    @property
    def on_cpu(self) -> bool:
        """Whether its runs are made there, and not on a GPU."""
        return self.engine.rows.runner.provider == CPU


class Models:
    """All models of a server, by number and by name.

    Args:
        models: in order of their numbers.
        accounts: of the tenants.

    Attributes:
        draining: the server is about to stop and opens no more sessions.
        stopped: nor does it take steps.
    """

    def __init__(self, models: list[Model], accounts: Accounts):
        self.accounts = accounts
        self._models = models
        self._by_name = {model.spec.name: model for model in models}
        self.draining = False
        self.stopped = False

    def __getitem__(self, number: int) -> Model:
        return self._models[number]

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    def divide(self, *, several: bool) -> None:
        """Set what each tenant may have.

        Args:
            several: there is more than one.
        """
        self.accounts.divide(several=several)
        for model in self._models:
            model.engine.sessions.share = self.accounts.most.sessions

    def forget_all_but(self, known: Container[str]) -> None:
        """Drop what is kept of tenants that are not known any more, and hold nothing."""
        self.accounts.forget_all_but(known)
        for model in self._models:
            model.engine.sessions.forget_all_but(known)

    def find(self, name: str, version: str = "") -> Model:
        """The model of a name (empty: the only one) and version (empty: any).

        Raises:
            NotFound: there is none, or the one there is has another version.
            InvalidRequest: no name, and several models.
        """
        served = ", ".join(sorted(self._by_name))
        if not name and len(self._models) > 1:
            raise InvalidRequest(f"model is empty; name one of: {served}", Reason.MODEL_UNKNOWN)
        model = self._by_name.get(name) if name else self._models[0]
        if model is None:
            raise NotFound(f"no model {name[:140]!r} here; there is: {served}", Reason.MODEL_UNKNOWN)
        if version and version != model.spec.version:
            raise NotFound(
                f"model {model.spec.name!r} is here in version {model.spec.version!r}, not {version[:140]!r}",
                Reason.MODEL_UNKNOWN,
            )
        return model


def load_models(config: ServerConfig, leases: Leases | None = None, threads: Mapping[str, int] | None = None) -> Models:
    """Load every artifact that the configuration names.

    Args:
        config: of the server.
        leases: on sessions, where other workers serve the same models.
        threads: by model, where another worker has measured already.

    Raises:
        ArtifactError: a file cannot be served.
        ProviderError: the execution provider cannot be had.
        ConfigError: two artifacts have the same model name.
    """
    models: list[Model] = []
    accounts = Accounts(config.limits, len(config.artifacts))
    for path in config.artifacts:
        artifact = Artifact.load(path)
        if any(model.spec.name == artifact.spec.name for model in models):
            raise ConfigError(f"artifacts: {path} is a second model named {artifact.spec.name!r}; names must differ")
        runner, measured = _runner(artifact, config, None if threads is None else threads.get(artifact.spec.name))
        engine = Engine(artifact.layout, runner, config.limits, config.tick, time.monotonic)
        lifecycle = Lifecycle(engine, config.limits, accounts, leases)
        models.append(Model(len(models), artifact.spec, engine, lifecycle, measured))
    return Models(models, accounts)


def _runner(artifact: Artifact, config: ServerConfig, known: int | None) -> tuple[Runner, Measured]:
    capacity = config.limits.sessions
    provider = config.provider

    def load(threads: int) -> Runner:
        nonlocal provider
        if config.deterministic:
            return HostRunner(artifact, capacity, threads)
        runner = load_runner(artifact, capacity, provider, threads)
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
