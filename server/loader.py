"""Loading and unloading models while others serve."""

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import structlog

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.spec import CONTRACT_ANY
from gatestream.server.backend.artifact import Artifact
from gatestream.server.backend.threads import Measured
from gatestream.server.config import ServerConfig
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.catalog import Catalog, Model, ModelState, build
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.durability.leases import Leases
from gatestream.server.errors import ConfigError, ServerError
from gatestream.server.transport.native import ClientStream

_LOOK_SECONDS: Final = 0.05
# Sessions that are unloaded with their model are in the store by then, where it answers.
_LET_GO_SECONDS: Final = 5.0

_log = structlog.get_logger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Loader:
    """Loads and unloads the models of one server.

    Args:
        catalog: that they are found in.
        config: of the server.
        spawn: begins a task that lives as long as the server.
        leases: on sessions, where other workers serve the same models.
        threads: of a run, by the name and version of a model, where another worker has measured already.
        checkpointer: of the server; None: every session ends with its stream.
    """

    def __init__(
        self,
        catalog: Catalog,
        config: ServerConfig,
        spawn: Spawn,
        leases: Leases | None = None,
        threads: Mapping[tuple[str, str], int] | None = None,
        checkpointer: Checkpointer | None = None,
    ):
        self._catalog = catalog
        self._config = config
        self._spawn = spawn
        self._leases = leases
        self._threads = threads or {}
        self._checkpointer = checkpointer
        self._loops: dict[Model, asyncio.Task[None]] = {}
        # When the sessions of those that are being retired are ended.
        self._until: dict[Model, float] = {}

    async def load(self, path: Path) -> Model:
        """Read an artifact, and have it served under the name and version that it says.

        Raises:
            ArtifactError: the file cannot be served.
            ProviderError, ConfigError, ServerError: as `serve`.
        """
        artifact = await asyncio.to_thread(Artifact.load, path)
        try:
            return await self.serve(artifact)
        except ConfigError as error:
            raise ConfigError(f"artifacts: {path}: {error}") from error

    async def serve(
        self, artifact: Artifact, threads: int | None = None, *, again: bool = False, most_rows: int = 0
    ) -> Model:
        """Warm an artifact up and have it found. Sessions of other models are stepped meanwhile.

        Args:
            artifact: what to serve.
            threads: of a run, where another worker has measured already.
            again: where there is one of this name and version, it takes no more sessions from when this one does.
            most_rows: of a run, where that is fewer than the server takes; 0: it is not.

        Raises:
            ProviderError: the execution provider cannot be had.
            ConfigError: there is a model of this name and version.
            ServerError: it failed its warm-up.
        """
        name, version = artifact.spec.name, artifact.spec.version
        number = self._catalog.reserve(name, version, again=again)
        tick = self._config.tick
        rows = min(tick.rows, most_rows or tick.rows)
        config = replace(self._config, tick=replace(tick, rows=rows))
        if threads is None:
            threads = self._threads.get((name, version))
        try:
            model = await asyncio.to_thread(
                build,
                artifact,
                number,
                config,
                self._catalog.accounts,
                self._leases,
                threads,
                self._checkpointer,
            )
            self._loops[model] = self._spawn(model.engine.run())
            try:
                await self._warm_up(model)
            except BaseException:
                await self._stop(model)
                raise
        except BaseException:
            self._catalog.release(name, version)
            raise
        # What the server sent itself is nobody's traffic.
        model.engine.count_anew()
        model.state = ModelState.READY
        self._catalog.add(model)
        kept, residence = model.lifecycle.kept, model.lifecycle.residence
        if self._checkpointer is not None and kept is not None and residence is not None:
            self._checkpointer.add(kept, residence.reserve)
        _log_model(model)
        return model

    async def unload(self, name: str, seconds: float, version: str = "") -> None:
        """As `retire`, for the model of a name and version.

        Raises:
            NotFound: there is none.
        """
        await self.retire(self._catalog.find(name, version), seconds)

    async def retire(self, model: Model, seconds: float) -> None:
        """Open no more sessions of a model, let those there are end, and give back what it holds.

        Of one that is being retired already this can only bring the end forward, and of one that is unloaded it does
        nothing; it then returns at once.

        Args:
            model: which.
            seconds: that its sessions may go on; then they are ended, and their owners hear `closed`.
        """
        if model.state is ModelState.UNLOADED:
            return
        name, version, until = model.name, model.version, time.monotonic() + seconds
        if model in self._until:
            self._until[model] = min(until, self._until[model])
            return
        self._until[model] = until
        alone = len(self._catalog.versions(name)) == 1
        which = f"model {name!r}" if alone else f"version {version!r} of model {name!r}"
        model.drain(f"{which} is being unloaded")
        sessions = model.engine.sessions
        _log.info("unloading", model=name, version=version, sessions=len(sessions), deadline_s=seconds)
        # With those that only wait for what they have accepted.
        while sessions.taken and time.monotonic() < self._until[model]:  # noqa: ASYNC110 - they end in many places
            await asyncio.sleep(_LOOK_SECONDS)
        ended = sessions.taken
        await self._let_go(model)
        await model.lifecycle.expiry.end_all(CloseReason.DRAINED)
        await model.engine.quiet()
        self._catalog.remove(model)
        if self._checkpointer is not None and model.lifecycle.kept is not None:
            self._checkpointer.remove(model.lifecycle.kept)
        del self._until[model]
        await self._stop(model)
        _log.info("unloaded", model=name, version=version, sessions_ended=ended)

    async def _let_go(self, model: Model) -> None:
        """Have the sessions that the store knows go on from there, on a version that has the same weights."""
        kept, until = model.lifecycle.kept, time.monotonic() + _LET_GO_SECONDS
        while kept is not None and len(sessions := kept.all()) and time.monotonic() < until:
            kept.hand_over(sessions)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _stop(self, model: Model) -> None:
        # Cancelled, the task would keep what its frames hold, and so the model, for as long as somebody has it.
        model.engine.end()
        await self._loops.pop(model)

    async def _warm_up(self, model: Model) -> None:
        """Send steps the way that a client's go, so that the first client does not wait for first runs."""
        config, layout = self._config, model.layout
        # Nobody else is to find it yet.
        alone = Catalog(Accounts(config.limits), straight=config.straight_path)
        alone.add(model)
        stream = ClientStream(alone, config.limits, tenant="gatestream.warm-up")
        chunk = min(config.tick.steps, config.limits.chunk_length)
        # Nothing is known of the constants that clients will give but that zeros are numbers of every type.
        zeros = [pb.Constant(name=each.name, value=bytes(each.row_bytes)) for each in layout.constants if each.required]
        for gates, most in itertools.product({False, bool(layout.gates)}, (1, chunk)):
            steps = min(most, model.engine.admission.most_rows(gates))
            columns = [bytes(steps * item.row_bytes) for item in layout.inputs]
            for message in (
                pb.ClientMessage(open=pb.Open(handle=0, model=layout.name, gates=gates, constant=zeros)),
                pb.ClientMessage(steps=pb.Steps(handle=[0], length=[steps], input=columns)),
                pb.ClientMessage(close=pb.Close(handle=[0])),
            ):
                stream.receive(message.SerializeToString())
            while (item := await stream.send_queue.take()) is not None:
                stream.rows -= item[1]
                answer = pb.ServerMessage.FromString(bytes(item[0]))
                if answer.HasField("error"):
                    raise ServerError(f"model {layout.name!r} failed its warm-up: {answer.error.message}")
                if answer.HasField("closed"):
                    break


def _log_model(model: Model) -> None:
    runner = model.runner
    if model.spec.contract == CONTRACT_ANY and not model.spec.promises.rows_independent:
        _log.warning(
            "a session's numbers depend on those that run beside it: its spec does not promise rows_independent",
            model=model.spec.name,
        )
    if model.spec.promises.unproved_states:
        _log.warning(
            "states are carried as they were given when the model was adopted: its proof could not tell",
            model=model.spec.name,
            states=list(model.spec.promises.unproved_states),
        )
    _log.info(
        "loaded",
        model=model.spec.name,
        version=model.spec.version,
        form=pb.Form.Name(model.spec.form),
        weights=pb.WeightFormat.Name(model.spec.weights),
        execution_provider=runner.provider,
        nodes={item.execution_provider: item.nodes for item in runner.placements},
        threads=model.measured.threads,
        **_table(model.measured),
    )


def _table(measured: Measured) -> dict[str, Any]:
    """Microseconds of one step, by threads and rows, where they were measured."""
    rounded = {
        threads: {rows: round(1e6 * seconds) for rows, seconds in times.items()}
        for threads, times in measured.seconds.items()
    }
    return {"step_us": rounded} if rounded else {}
