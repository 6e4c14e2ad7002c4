"""`gatestream demo`: the whole path, from no model to a live session and a look at its gates."""

import importlib
import itertools
import secrets
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import click
import numpy as np
from numpy.typing import NDArray

from gatestream.cli.extras import EXPORTING, needing
from gatestream.cli.numbers import SEED
from gatestream.cli.outcome import Outcome
from gatestream.client import connect
from gatestream.client.errors import GatestreamError
from gatestream.files import marks, outputs
from gatestream.files.writing import replacing
from gatestream.model.tasks import reber

ARTIFACTS = Path("artifacts")
FOLDER = Path("demo")
MODEL = "reber"
SHOWN = 100
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Live:
    """What a live session came to.

    Attributes:
        symbols: how many were streamed.
        illegal: predictions that ranked some illegal successor as high as some legal one.
        latencies: seconds from sending each step to having its answer, [symbols].
        shown: the last symbols, as many as `SHOWN`.
        gates: their activations, by gate name, each [SHOWN, layers, hidden].
    """

    symbols: int
    illegal: int
    latencies: NDArray[np.float64]
    shown: str
    gates: dict[str, NDArray[np.float32]]


@click.command("demo", cls=Outcome)
@click.option(
    "--symbols", type=click.IntRange(SHOWN, 10**8), default=5000, show_default=True, help="How many to stream."
)
@click.option("--seed", type=SEED, help="Of the stream; by default another one every time.")
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Only stream, through a server that serves the model already; nothing is trained, exported or drawn.",
)
@click.option("--kill", is_flag=True, help="Kill the server in mid-stream and start another: the session goes on.")
@click.option("--force", is_flag=True, help="Overwrite files that gatestream did not make.")
@click.pass_context
def command(ctx: click.Context, symbols: int, seed: int | None, address: str | None, kill: bool, force: bool) -> None:
    """Train the reference model, export it, serve it, stream a live session through it, and draw its gates.

    The model learns the continual embedded Reber grammar, an endless stream of symbols: at every step it says which
    symbols may come next. A finished checkpoint in ./artifacts is taken up; the picture and the server's log go to
    ./demo. Ends with 1 when any prediction was illegal.
    """
    seed = secrets.randbits(32) if seed is None else seed
    if address is not None:
        if kill:
            raise click.UsageError("--kill is for the demo's own server, and --address names another")
        _tell(stream_through(address, symbols, seed))
        return
    with needing("the demo", EXPORTING):
        # Before anything is trained.
        for module in ("torch", "onnxscript", "onnxruntime", "structlog", "matplotlib"):
            importlib.import_module(module)
    log, picture = FOLDER / "server.log", FOLDER / "gates.png"
    written = [outputs.Output("the server's log", log, "log"), outputs.Output("the picture", picture, "picture")]
    outputs.check(written, {}, force=force)
    artifact = _make(ctx, force)
    FOLDER.mkdir(exist_ok=True)
    _heading(f"Serve {artifact} (log: {log})")
    with Server(artifact, log) as server:
        _heading(f"Stream {symbols:,} symbols through {server.address}, one a message (seed {seed})")

        def halfway() -> None:
            click.echo(f"after symbol {symbols // 2:,} the server is killed (SIGKILL) and another started in its place")
            server.kill()

        live = stream_through(server.address, symbols, seed, halfway if kill else None)
    draw(live, picture)
    _tell(live, picture)


def _make(ctx: click.Context, force: bool) -> Path:
    """Train and export, through the commands that do so; the artifact to serve."""
    from gatestream.cli import export, train

    checkpoint = ARTIFACTS / f"{MODEL}.safetensors"
    ARTIFACTS.mkdir(exist_ok=True)
    _heading(f"Train {checkpoint}")
    ctx.invoke(train.reber, output=checkpoint, force=force)
    for form in ("gates", "fused"):
        _heading(f"Export {checkpoint}, form {form}")
        artifact = ARTIFACTS / f"{MODEL}.{form}.onnx"
        ctx.invoke(export.command, source=str(checkpoint), output=artifact, form=form, force=force)
    return ARTIFACTS / f"{MODEL}.gates.onnx"


class Server:
    """A `gatestream serve` on a free port, for the length of a block, whose sessions outlive it.

    Args:
        artifact: what it serves.
        log: where it says what it does.
    """

    def __init__(self, artifact: Path, log: Path):
        self._artifact = artifact
        self._log = log
        self._port = 0

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._log.write_text(f"# {marks.MARK}\n")
        try:
            self._start()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()

    @property
    def address(self) -> str:
        """Where it is."""
        return f"127.0.0.1:{self._port}"

    def kill(self) -> None:
        """Kill it, and start another in its place."""
        self._process.kill()
        self._process.wait()
        self._start()

    def _start(self) -> None:
        port = Path(self._folder.name, "port")
        port.unlink(missing_ok=True)
        store = Path(self._folder.name, "sessions.db")
        flags = [f"--port-file={port}", f"--listen={self.address}", f"--store=sqlite:{store}", "--log-format=text"]
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gatestream.cli", "serve", str(self._artifact), *flags], stdout=out, stderr=out
            )
        deadline = time.monotonic() + _START_SECONDS
        while not port.exists() or not port.read_text().endswith("\n"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise click.ClickException(f"the server did not start; {self._log} says why")
            time.sleep(0.05)
        self._port = int(port.read_text())


def stream_through(address: str, symbols: int, seed: int, halfway: Callable[[], None] | None = None) -> Live:
    """Step a session symbol by symbol, and judge each prediction.

    Args:
        address: of a server.
        symbols: how many.
        seed: of the stream.
        halfway: called in the middle.

    Raises:
        ClickException: the session did not go on.
    """
    illegal = 0
    latencies = np.empty(symbols)
    last: deque[tuple[str, dict[str, NDArray[np.float32]]]] = deque(maxlen=SHOWN)
    try:
        with (
            connect(address) as server,
            server.session(MODEL, gates=True) as session,
            click.progressbar(
                itertools.islice(reber.stream(seed), symbols),
                length=symbols,
                update_min_steps=symbols // 50,
                hidden=not sys.stdout.isatty(),
            ) as stream,
        ):
            for step, (symbol, legal) in enumerate(stream):
                if halfway is not None and step == symbols // 2:
                    halfway()
                began = time.perf_counter()
                scores = session.step(symbol)
                latencies[step] = time.perf_counter() - began
                illegal += reber.illegal(scores, legal)
                last.append((reber.SYMBOLS[symbol], dict(session.gates)))
    except GatestreamError as error:
        raise click.ClickException(str(error)) from error
    gates = {name: np.stack([gates[name] for _, gates in last]) for name in last[0][1]}
    return Live(symbols, illegal, latencies, "".join(symbol for symbol, _ in last), gates)


def draw(live: Live, path: Path) -> None:
    """Draw the last steps: a heat map for each gate, hidden units upwards, time to the right, symbols below it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 9), layout="constrained")
    axes = figure.subplots(len(live.gates), 1, sharex=True)
    for axis, (name, activations) in zip(axes, live.gates.items(), strict=True):
        # The candidate is a tanh, the other three are logistic.
        colours, least = ("RdBu_r", -1.0) if name == "candidate" else ("viridis", 0.0)
        image = axis.imshow(
            activations.reshape(len(activations), -1).T,
            aspect="auto",
            interpolation="nearest",
            origin="lower",
            cmap=colours,
            vmin=least,
            vmax=1.0,
        )
        axis.set_title("cell candidate" if name == "candidate" else f"{name} gate", loc="left", fontsize=11)
        axis.set_ylabel("hidden unit")
        axis.tick_params(length=0)
        figure.colorbar(image, ax=axis, pad=0.01, aspect=12)
        for step, (before, after) in enumerate(itertools.pairwise(live.shown)):
            if before + after == "EB":
                axis.axvline(step + 0.5, color="black", linewidth=1.5)
    axes[-1].set_xticks(range(len(live.shown)), live.shown, family="monospace", fontsize=9)
    axes[-1].set_xlabel("symbol of each step; a line: one string ends, the next begins")
    first = live.symbols - len(live.shown)
    figure.suptitle(
        f"Gate activations in steps {first:,} to {live.symbols - 1:,} of one live session", x=0.01, ha="left"
    )
    with replacing(path) as draft:
        figure.savefig(draft, dpi=110, metadata=marks.picture_metadata(draft.suffix))


def _heading(text: str) -> None:
    click.secho(f"\n{text}", bold=True)


def _tell(live: Live, picture: Path | None = None) -> None:
    """Say what a person would want to know.

    Raises:
        ClickException: some prediction was illegal.
    """
    p50, p99 = 1000 * np.quantile(live.latencies, (0.5, 0.99))
    click.echo(f"\nstreamed  {live.symbols:,} symbols in one session")
    click.echo(f"illegal   {live.illegal:,} predictions")
    click.echo(f"latency   p50 {p50:.2f} ms, p99 {p99:.2f} ms a step, there and back")
    if picture is not None:
        click.echo(f"picture   {picture}: the four gates over the last {len(live.shown)} steps")
    if live.illegal:
        raise click.ClickException(f"{live.illegal} of {live.symbols} predictions were illegal; there should be none")
