"""What a target needs to measure: contenders, instruments, and windows that take turns."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from benchmarks.harness import generator
from benchmarks.harness.processes import Announced, Gatestream, Instrument, Server, flags, free_port
from benchmarks.harness.statistics import Figures
from benchmarks.models import SHAPES, Form, Weights, artifact

ECHO_PATH: Final = "/benchmark.Limit/Echo"
# What gRPC puts before a message.
PREFIX_BYTES: Final = 5
BY_HAND_PATH: Final = "/benchmark.ByHand/Step"

Case = Callable[[], Figures]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to look.

    Attributes:
        repeats: windows of each contender.
        seconds: of a window.
        warm_up: seconds before a window.
        sweeps: windows of each contender where there are very many.
        crowd: sessions that are "many".
    """

    repeats: int
    seconds: float
    warm_up: float
    sweeps: int
    crowd: int


# Short windows: what disturbs a shared machine lasts for seconds, and is to disturb all of a turn.
FULL: Final = Pace(repeats=8, seconds=0.25, warm_up=0.05, sweeps=5, crowd=100_000)
QUICK: Final = Pace(repeats=5, seconds=0.25, warm_up=0.1, sweeps=2, crowd=20_000)


class Bench:
    """The processes of one target; they end with its `with` block.

    Args:
        pace: how long to look.
        title: for the progress bar.
    """

    def __init__(self, pace: Pace, title: str):
        self.pace = pace
        self._title = title
        self._stack = ExitStack()

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    # ---- Contenders ---------------------------------------------------------------------------

    def gatestream(self, model: str, form: Form, weights: Weights = "float32", **settings: object) -> Gatestream:
        """A server of one model; settings are its flags."""
        return self.serving(artifact(model, form, weights), **settings)

    def serving(self, artifact: Path, **settings: object) -> Gatestream:
        """A server of this file; settings are its flags."""
        return self._stack.enter_context(Gatestream(artifact, settings))

    def folder(self) -> Path:
        """An empty folder, which ends with the processes."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory()))

    def timed(self, model: str, form: Form, file: Path, **settings: object) -> Gatestream:
        """A server that writes to a file how long its loop and its checkpoints take (benchmarks.contenders.timed)."""
        command = ("-m", "benchmarks.contenders.timed", str(file))
        return self._stack.enter_context(Gatestream(artifact(model, form), settings, command))

    def counted(self, model: str, form: Form, file: Path, **settings: object) -> Gatestream:
        """A server that counts its calls and writes them to a file (benchmarks.contenders.counted)."""
        command = ("-m", "benchmarks.contenders.counted")
        server = Gatestream(artifact(model, form), settings, command, {"GATESTREAM_CALLS": str(file)})
        return self._stack.enter_context(server)

    def echo(self, port: int = 0, *, tuned: bool = False) -> Announced:
        """limit-echo, on a port that others share; 0: on one of its own. Tuned: on gatestream's event loop and gRPC."""
        return self._stack.enter_context(Announced("echo", [f"--port={port}", *_tuned(tuned)]))

    def echoes(self, count: int) -> list[Announced]:
        """So many limit-echoes on one port, among which the kernel deals out connections."""
        port = free_port()
        return [self.echo(port) for _ in range(count)]

    def by_hand(self, model: str, form: Form, threads: int = 1) -> Announced:
        """by-hand."""
        return self._stack.enter_context(Announced("by_hand", [artifact(model, form), f"--threads={threads}"]))

    def bare_run(
        self, model: str, form: Form, batch: int, steps: int = 1, threads: int = 1, weights: Weights = "float32"
    ) -> Instrument:
        """limit-run."""
        module = [sys.executable, "-m", "benchmarks.contenders.run", str(artifact(model, form, weights))]
        options = [f"--batch={batch}", f"--steps={steps}", f"--threads={threads}"]
        return self._stack.enter_context(_ending(Instrument([*module, *options])))

    def original_run(self, file: Path, batch: int) -> Instrument:
        """limit-original."""
        module = [sys.executable, "-m", "benchmarks.contenders.original", str(file), f"--batch={batch}"]
        return self._stack.enter_context(_ending(Instrument(module)))

    # ---- Loads --------------------------------------------------------------------------------

    def load(self, server: Server, model: str, gates: bool = False, **options: object) -> Instrument:
        """Load on a gatestream server, over its own wire; options are the generator's flags."""
        gate_bytes = SHAPES[model].gate_bytes if gates else 0
        return self.load_of(server, {"gate_bytes": gate_bytes, **_row(model)}, **options)

    def load_of(self, server: Server, row: Mapping[str, object], **options: object) -> Instrument:
        """Load as `load`, on a model that is not one of `SHAPES`; what its rows hold are flags of the generator too."""
        return self._generator("gatestream", server, {**row, **options})

    def inference_load(self, server: Server, model: str, **options: object) -> Instrument:
        """Load on a server of the Open Inference Protocol."""
        return self._generator("inference", server, {**_row(model), **options})

    def echo_load(self, server: Server, message_bytes: int, **options: object) -> Instrument:
        """Load on limit-echo."""
        return self._generator("opaque", server, {"path": ECHO_PATH, "bytes": message_bytes, **options})

    def both_load(self, model: str, form: Form, like: Instrument, batch: int, steps: int = 1) -> Instrument:
        """Load on limit-both, which makes a run for each message, in messages as large as those of another load."""
        shape = [f"--batch={batch}", f"--steps={steps}"]
        server = self._stack.enter_context(Announced("both", [artifact(model, form), *shape]))
        return self.echo_load(server, self.message_bytes(like), sessions=batch, steps=steps)

    def tuned_both(self, model: str, form: Form) -> Announced:
        """limit-both for single steps, on gatestream's event loop and gRPC."""
        return self._stack.enter_context(Announced("both", [artifact(model, form), "--batch=1", *_tuned(True)]))

    def by_hand_load(self, server: Server, model: str, **options: object) -> Instrument:
        """Load on by-hand."""
        shape = SHAPES[model]
        if shape.inputs != shape.outputs or shape.tokens:
            raise ValueError(f"model {model} answers with another size than it asks with; by-hand's load needs one")
        return self._generator("opaque", server, {"path": BY_HAND_PATH, "bytes": 8 + 4 * shape.inputs, **options})

    def python_client(self, server: Server, model: str, kind: str, **options: object) -> Instrument:
        """Load by the Python client; kinds and options are those of benchmarks.contenders.client."""
        module = [sys.executable, "-m", "benchmarks.contenders.client", kind]
        arguments = flags({"port": server.port, "features": SHAPES[model].inputs, **options})
        return self._stack.enter_context(_ending(Instrument([*module, *arguments])))

    def steppers(self, server: Server, model: str, sessions: int) -> Instrument:
        """Sessions of a Python client that go on when their server is another (benchmarks.contenders.steppers)."""
        options = {"port": server.port, "model": model, "sessions": sessions, "features": SHAPES[model].inputs}
        module = [sys.executable, "-m", "benchmarks.contenders.steppers"]
        return self._stack.enter_context(_ending(Instrument([*module, *flags(options)])))

    def _generator(self, wire: str, server: Server, options: Mapping[str, object]) -> Instrument:
        program: list[str | Path] = [generator.build(), wire, f"--port={server.port}", f"--pid={server.pid}"]
        return self._stack.enter_context(_ending(Instrument([*program, *flags(options)])))

    @staticmethod
    def message_bytes(load: Instrument) -> int:
        """Size of a message of this load, for an echo of the same size."""
        return int(load.count(16)["request_bytes"]) - PREFIX_BYTES

    # ---- Windows ------------------------------------------------------------------------------

    def closed(self, instrument: Instrument, seconds: float | None = None) -> Case:
        """A window of a closed loop, or of a bare run."""
        return lambda: instrument.measure(self.pace.warm_up, seconds or self.pace.seconds)

    def open(self, instrument: Instrument, rate: float, seconds: float | None = None) -> Case:
        """A window of an open loop."""
        return lambda: instrument.measure(self.pace.warm_up, seconds or self.pace.seconds, rate)

    def interleave(self, cases: Mapping[str, Case], repeats: int | None = None) -> dict[str, list[Figures]]:
        """Windows of all cases in turn, each repeat beginning with another case."""
        names = list(cases)
        windows: dict[str, list[Figures]] = {name: [] for name in names}
        rounds = repeats or self.pace.repeats
        with tqdm(total=rounds * len(names), desc=self._title, unit="window", leave=False, disable=None) as bar:
            for repeat in range(rounds):
                shift = repeat % len(names)
                for name in names[shift:] + names[:shift]:
                    bar.set_postfix_str(name)
                    windows[name].append(cases[name]())
                    bar.update()
        return windows


def _tuned(tuned: bool) -> list[str]:
    return ["--tuned"] if tuned else []


@contextmanager
def _ending(instrument: Instrument) -> Iterator[Instrument]:
    with instrument:
        yield instrument
        instrument.close()


def _row(model: str) -> dict[str, object]:
    shape = SHAPES[model]
    return {"model": shape.name, "features": shape.inputs, "tokens": shape.tokens, "outputs": shape.outputs}
