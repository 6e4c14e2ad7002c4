"""Loading and unloading models while others serve."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine, Mapping
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
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.durability.leases import Leases
from gatestream.server.errors import ConfigError, ServerError
from gatestream.server.transport.native import ClientStream

_LOOK_SECONDS: Final = 0.05

_log = structlog.get_logger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Loader:
    """Loads and unloads the models of one server.

    Args:
        catalog: that they are found in.
        config: of the server.
        spawn: begins a task that lives as long as the server.
        leases: on sessions, where other workers serve the same models.
        threads: of a run, by model, where another worker has measured already.
    """

    def __init__(
        self,
        catalog: Catalog,
        config: ServerConfig,
        spawn: Spawn,
        leases: Leases | None = None,
        threads: Mapping[str, int] | None = None,
    ):
        self._catalog = catalog
        self._config = config
        self._spawn = spawn
        self._leases = leases
        self._threads = threads or {}
        self._loops: dict[Model, asyncio.Task[None]] = {}

    async def load(self, path: Path) -> Model:
        """Read an artifact, warm it up and have it found. Sessions of other models are stepped meanwhile.

        Raises:
            ArtifactError: the file cannot be served.
            ProviderError: the execution provider cannot be had.
            ConfigError: there is a model of this name.
            ServerError: it failed its warm-up.
        """
        artifact = await asyncio.to_thread(Artifact.load, path)
        name = artifact.spec.name
        try:
            number = self._catalog.reserve(name)
        except ConfigError as error:
            raise ConfigError(f"artifacts: {path}: {error}") from error
        try:
            model = await asyncio.to_thread(
                build, artifact, number, self._config, self._catalog.accounts, self._leases, self._threads.get(name)
            )
            self._loops[model] = self._spawn(model.engine.run())
            try:
                await self._warm_up(model)
            except BaseException:
                await self._stop(model)
                raise
        except BaseException:
            self._catalog.release(name)
            raise
        # What the server sent itself is nobody's traffic.
        model.engine.count_anew()
        model.state = ModelState.READY
        self._catalog.add(model)
        _log_model(model)
        return model

    async def unload(self, name: str, seconds: float) -> None:
        """Open no more sessions of a model, let those there are end, and give back what it holds.

        Args:
            name: of the model.
            seconds: that its sessions may go on; then they are ended, and their owners hear `closed`.

        Raises:
            NotFound: there is none.
        """
        model = self._catalog.find(name)
        model.drain(f"model {name!r} is being unloaded")
        sessions = model.engine.sessions
        _log.info("unloading", model=name, sessions=len(sessions), deadline_s=seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(sessions):  # noqa: ASYNC110 - sessions end in many places
                    await asyncio.sleep(_LOOK_SECONDS)
        ended = len(sessions)
        await model.lifecycle.end_all(CloseReason.DRAINED)
        await model.engine.quiet()
        self._catalog.remove(model)
        await self._stop(model)
        _log.info("unloaded", model=name, sessions_ended=ended)

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
