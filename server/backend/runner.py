"""The only file that touches onnxruntime: rows of state, and the runs that advance them.

Two runners, one behaviour. On the CPU the state rows lie in NumPy arrays and are gathered before and written after each
run: as fast as gathering in the graph from 8 rows on and faster below, and a failed run has touched nothing. On CUDA
the arenas stay on the device, and gather and scatter are part of the graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import structlog

from gatestream.protos.layout import State
from gatestream.server.arrays import Array, Ints
from gatestream.server.backend.artifact import (
    DUE_SLOTS,
    SLOTS,
    Artifact,
    arena_graph,
    arena_name,
    arena_output_name,
    due_name,
    rows_graphs,
)
from gatestream.server.backend.few_steps import FEW, FewSteps
from gatestream.server.config import Provider
from gatestream.server.errors import ArtifactError, ProviderError

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
ONES: Final = np.ones(FEW, np.int32)
"""The lengths of a run of single steps of so few rows."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Placement:
    """Nodes of the graph that run on one execution provider."""

    execution_provider: str
    nodes: int
    operators: tuple[str, ...]


class Runner(Protocol):
    """The state rows of one model and what advances them. Called from one thread at a time."""

    @property
    def provider(self) -> str:
        """As onnxruntime names it."""

    @property
    def placements(self) -> Sequence[Placement]:
        """Where each node of the graph runs."""

    def step(
        self, slots: Ints, inputs: Sequence[Array], lengths: npt.NDArray[np.int32], gates: bool
    ) -> tuple[list[Array], list[Array]]:
        """Advance rows of state; when this raises, no row has changed.

        Args:
            slots: [batch], each at most once.
            inputs: in the layout's order, each [batch, time, *shape].
            lengths: [batch], how many steps of each row are real, 1 to time.
            gates: whether the gate activations are wanted.

        Returns:
            The outputs and the gates, in the layout's order, each [batch, time, *shape]; rows past a length are
            unspecified. No gates where none are wanted. They are good until the next call.
        """

    def step_few(self, slots: Sequence[int], inputs: Sequence[Array], gates: bool) -> tuple[list[Array], list[Array]]:
        """As `step`, for one step of each of up to `FEW` rows."""

    def step_one(self, slot: int, columns: Sequence[bytes], gates: bool) -> tuple[list[bytes], list[bytes]] | None:
        """One step of one row, from bytes to bytes.

        Args:
            slot: of the row.
            columns: in the layout's order, a row of each input.
            gates: whether the gate activations are wanted.

        Returns:
            The outputs and the gates, in the layout's order, a row of each. None: there is a number that the model does
            not take, or this runner has no shorter way than `step_few`. Then, and when this raises, nothing has
            changed.
        """

    def read(self, slots: Ints) -> list[Array]:
        """Copies of rows of state, in the layout's order, each [batch, *shape]."""

    def write(self, slots: Ints, states: Sequence[Array]) -> None:
        """Set rows of state; shapes as `read` gives them."""


def load_runner(
    artifact: Artifact, capacity: int, provider: Provider, threads: int, *, straight: bool = False
) -> Runner:
    """Put a model onto an execution provider.

    Args:
        artifact: what to run.
        capacity: rows of state.
        provider: `auto` takes CUDA where a session on it can be had, and says in the log why it could not.
        threads: of one run, on the CPU.
        straight: on the CPU, gather and scatter the rows of every run.

    Raises:
        ProviderError: no onnxruntime, or CUDA was asked for and cannot be had.
        ArtifactError: onnxruntime refuses the graph.
    """
    if provider != "cpu":
        try:
            return ArenaRunner(artifact, capacity, CUDA, threads)
        except ProviderError as error:
            if provider == "cuda":
                raise
            _log.info("no CUDA, so the CPU", reason=str(error))
    return HostRunner(artifact, capacity, threads, straight=straight)


class HostRunner:
    """State rows in host memory, runs on the CPU.

    Single steps of few rows run in buffers that are bound once, and of other runs the rows that lie side by side are
    neither gathered nor scattered, unless all is to go the `straight` way.
    """

    provider = CPU

    def __init__(self, artifact: Artifact, capacity: int, threads: int, *, straight: bool = False):
        layout = artifact.layout
        self._session = _session(artifact.model, CPU, threads, layout.name)
        self.placements = _placements(self._session)
        self._inputs = [item.name for item in layout.inputs]
        self._states = [item.name for item in layout.states]
        self._length = layout.length
        self._outputs = len(layout.outputs)
        plain = [item.name for item in layout.outputs] + [item.after for item in layout.states]
        self._wanted = (plain, plain + [gate.name for gate in layout.gates])
        self._arenas = [_empty_arena(state, capacity) for state in layout.states]
        self._straight = straight
        self._few = FewSteps(self._session, _onnxruntime().OrtValue.ortvalue_from_numpy, layout, self._arenas)
        # No method around it: one call more for each message is felt.
        self.step_one = self._few.run_one

    def step(
        self, slots: Ints, inputs: Sequence[Array], lengths: npt.NDArray[np.int32], gates: bool
    ) -> tuple[list[Array], list[Array]]:
        """As `Runner`."""
        if len(slots) <= FEW and inputs[0].shape[1] == 1 and not self._straight:
            return self._few.run(slots.tolist(), inputs, gates)
        where = None if self._straight else _neighbours(slots)
        # The rows of neighbours are read where they lie: no run writes to its inputs.
        before = self.read(slots) if where is None else [arena[where] for arena in self._arenas]
        outputs, states, shown = self.compute(inputs, lengths, before, gates)
        for arena, rows in zip(self._arenas, states, strict=True):
            arena[slots if where is None else where] = rows
        return outputs, shown

    def step_few(self, slots: Sequence[int], inputs: Sequence[Array], gates: bool) -> tuple[list[Array], list[Array]]:
        """As `Runner`."""
        return self._few.run(slots, inputs, gates)

    def compute(
        self, inputs: Sequence[Array], lengths: npt.NDArray[np.int32], states: Sequence[Array], gates: bool
    ) -> tuple[list[Array], list[Array], list[Array]]:
        """One run, which changes no row of state.

        Args:
            inputs: as in `Runner.step`.
            lengths: as in `Runner.step`.
            states: before the run, in the layout's order, each [batch, *shape].
            gates: as in `Runner.step`.

        Returns:
            The outputs, the states after the run, and the gates.
        """
        feed: dict[str, Array] = dict(zip(self._inputs, inputs, strict=True))
        if self._length:
            feed[self._length] = lengths
        feed.update(zip(self._states, states, strict=True))
        got: list[Array] = self._session.run(self._wanted[gates], feed)
        after = self._outputs + len(self._arenas)
        return got[: self._outputs], got[self._outputs : after], got[after:]

    def read(self, slots: Ints) -> list[Array]:
        """As `Runner`."""
        return [arena.take(slots, axis=0) for arena in self._arenas]

    def write(self, slots: Ints, states: Sequence[Array]) -> None:
        """As `Runner`."""
        for arena, rows in zip(self._arenas, states, strict=True):
            arena[slots] = rows


def _neighbours(slots: Ints) -> slice | None:
    """The slots as a slice, where each is next to the one before: those of sessions that were opened together."""
    first, count = int(slots[0]), len(slots)
    if slots[-1] - first != count - 1 or np.count_nonzero(slots[1:] - slots[:-1] != 1):
        return None
    return slice(first, first + count)


class ArenaRunner:
    """State rows on the provider's device, gathered and scattered in the graph.

    The rows that a run leaves are due: they stay on the device and are written at the start of the next run, or before
    rows are read or written. A run that fails after its states were computed has then changed none.
    """

    def __init__(self, artifact: Artifact, capacity: int, provider: str, threads: int):
        self.provider = provider
        self._ort = _onnxruntime()
        self._device = "cuda" if provider == CUDA else "cpu"
        self._layout = layout = artifact.layout
        self._session = _session(arena_graph(artifact), provider, threads, layout.name)
        self._reader, self._writer = (_session(g, provider, threads, layout.name) for g in rows_graphs(artifact))
        self.placements = _placements(self._session)
        self._arenas = [self._on_device(_empty_arena(state, capacity)) for state in layout.states]
        self._outputs = [item.name for item in layout.outputs]
        self._gates = [gate.name for gate in layout.gates]
        # Without and with gates. To bind the arenas anew in each step makes a small one a quarter slower.
        self._bindings = [self._on_arenas(self._session, writes=True) for _ in range(2)]
        nothing = [np.empty((0, *state.shape), state.dtype) for state in layout.states]
        self._nothing_due = self._due_names(*map(self._on_device, (np.empty(0, np.int64), *nothing)))
        self._due = self._nothing_due

    def step(
        self, slots: Ints, inputs: Sequence[Array], lengths: npt.NDArray[np.int32], gates: bool
    ) -> tuple[list[Array], list[Array]]:
        """As `Runner`."""
        feed = {item.name: array for item, array in zip(self._layout.inputs, inputs, strict=True)}
        if self._layout.length:
            feed[self._layout.length] = lengths
        wanted = self._outputs + (self._gates if gates else [])
        # A copy: the caller may use its array again before these rows are written.
        here = self._on_device(slots.copy())
        binding = self._bindings[gates]
        self._bind(binding, feed, {SLOTS: here, **self._due}, wanted)
        for state in self._layout.states:
            binding.bind_output(state.after, self._device)
        self._session.run_with_iobinding(binding)
        got = binding.get_outputs()[len(self._arenas) :]
        self._due = self._due_names(here, *got[len(wanted) :])
        answers = [value.numpy() for value in got[: len(wanted)]]
        return answers[: len(self._outputs)], answers[len(self._outputs) :]

    def step_few(self, slots: Sequence[int], inputs: Sequence[Array], gates: bool) -> tuple[list[Array], list[Array]]:
        """As `Runner`."""
        return self.step(np.array(slots), inputs, ONES[: len(slots)], gates)

    def step_one(self, slot: int, columns: Sequence[bytes], gates: bool) -> tuple[list[bytes], list[bytes]] | None:
        """As `Runner`."""
        return None

    def read(self, slots: Ints) -> list[Array]:
        """As `Runner`."""
        self._write_due()
        binding = self._on_arenas(self._reader, writes=False)
        self._bind(binding, {SLOTS: slots}, {}, [state.name for state in self._layout.states])
        self._reader.run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()]

    def write(self, slots: Ints, states: Sequence[Array]) -> None:
        """As `Runner`."""
        self._write_due()
        binding = self._on_arenas(self._writer, writes=True)
        self._bind(binding, self._due_names(slots, *states), {}, [])
        self._writer.run_with_iobinding(binding)

    def _write_due(self) -> None:
        if self._due is not self._nothing_due:
            binding = self._on_arenas(self._writer, writes=True)
            self._bind(binding, {}, self._due, [])
            self._writer.run_with_iobinding(binding)
            self._due = self._nothing_due

    def _due_names(self, slots: Any, *rows: Any) -> dict[str, Any]:
        return {
            DUE_SLOTS: slots,
            **{due_name(state): row for state, row in zip(self._layout.states, rows, strict=True)},
        }

    def _on_device(self, array: Array) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)

    def _on_arenas(self, session: Any, writes: bool) -> Any:
        """A binding with the arenas as inputs and, for a graph that writes them, as its first outputs."""
        binding = session.io_binding()
        for state, arena in zip(self._layout.states, self._arenas, strict=True):
            binding.bind_ortvalue_input(arena_name(state), arena)
            if writes:
                binding.bind_ortvalue_output(arena_output_name(state), arena)
        return binding

    @staticmethod
    def _bind(binding: Any, feed: Mapping[str, Array], resident: Mapping[str, Any], wanted: Sequence[str]) -> None:
        for name, array in feed.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name, value in resident.items():
            binding.bind_ortvalue_input(name, value)
        for name in wanted:
            binding.bind_output(name, "cpu")


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            "onnxruntime is not installed; for the CPU: pip install 'gatestream[cpu]', "
            "for CUDA: pip install 'gatestream[cuda]' (one of the two: they hold the same module)"
        ) from error
    return onnxruntime


def _session(model: onnx.ModelProto, provider: str, threads: int, name: str) -> Any:
    ort = _onnxruntime()
    if provider == CUDA:
        if CUDA not in ort.get_available_providers():
            raise ProviderError(
                f"this onnxruntime ({ort.__version__}) is built without {CUDA}; "
                "pip uninstall onnxruntime, then pip install 'gatestream[cuda]'"
            )
        ort.preload_dlls()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning thread burns a core between the steps of a live session.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # What fails is raised, with the same words; those that it writes past the log a client could ask for in any number.
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=[provider])
    except Exception as error:  # onnxruntime's exceptions have no public base but Exception
        raise ArtifactError(f"model {name!r}: onnxruntime {ort.__version__} refuses its graph: {error}") from error
    # onnxruntime goes on with the CPU when a provider's libraries cannot be loaded.
    if session.get_providers()[0] != provider:
        raise ProviderError(
            f"{provider} could not be started: its libraries or a device are missing (onnxruntime's own message is on "
            "standard error); check that nvidia-smi lists a GPU and that pip install 'gatestream[cuda]' succeeded"
        )
    return session


def _placements(session: Any) -> list[Placement]:
    nodes: dict[str, list[str]] = {}
    for subgraph in session.get_provider_graph_assignment_info():
        nodes.setdefault(subgraph.ep_name, []).extend(node.op_type for node in subgraph.get_nodes())
    return [Placement(name, len(kinds), tuple(sorted(set(kinds)))) for name, kinds in sorted(nodes.items())]


def _empty_arena(state: State, capacity: int) -> Array:
    # numpy.zeros takes pages from the kernel only when they are first written: an empty arena costs no memory. What a
    # row holds before its session's first run is of no meaning: `StateRows` sets it then.
    return np.zeros((capacity, *state.shape), state.dtype)
