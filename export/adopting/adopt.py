"""From anybody's ONNX file to an artifact, proved against the file itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from gatestream.export import artifact
from gatestream.export.adopting import convolutions, dataflow, lean, preparing, reading, refusals
from gatestream.export.adopting.axes import find_axes
from gatestream.export.adopting.by_running import pairs_by_running
from gatestream.export.adopting.describe import Origin, cells_of, describe
from gatestream.export.adopting.explaining import explain
from gatestream.export.adopting.expose import expose
from gatestream.export.adopting.naming import shorten
from gatestream.export.adopting.normalise import normalise
from gatestream.export.adopting.options import Options
from gatestream.export.adopting.probing import Probe, ProbeError
from gatestream.export.adopting.reference import Carries, Plan, Source, source_runner
from gatestream.export.adopting.running import Array, Runner
from gatestream.export.adopting.signature import Carried, Dim, End, Signature, dims_of
from gatestream.export.adopting.slots import is_recurrent
from gatestream.export.adopting.states import Pair
from gatestream.export.errors import AmbiguousError, NotStreamableError, StatelessError
from gatestream.export.proof.report import Report
from gatestream.export.proof.streamed import sample
from gatestream.export.proof.streaming import prove
from gatestream.export.rewriting.reform import reform
from gatestream.files.writing import replacing
from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_IR_VERSION: Final = 10
_CLOSE: Final = 1e-3
_CLOSE_HALF: Final = 2e-2
_CLOSE_QUANTISED: Final = 5e-2
"""Of two right runs while axes are looked for, relative to the largest number; the proof is stricter."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """What became of a file.

    Attributes:
        path: of the artifact.
        spec: of it.
        report: what was proved.
    """

    path: Path
    spec: pb.ModelSpec
    report: Report


@dataclass(slots=True)
class _Work:
    """A file on its way.

    Attributes:
        model: as it is at this moment.
        origin: the file as it came.
        options: what was said of it.
        dims: of the file's inputs and outputs.
        given: the file's inputs, by name.
        pairs: the states found so far.
        hidden: names of those that the file does not show.
        context: by input, samples and their axis in the file.
        ignored: inputs that nothing reads.
        starts: inputs that were nothing but what states start from, and are zeros for a new session.
        said: what was rewritten.
    """

    model: ir.Model
    origin: Origin
    options: Options
    dims: dict[str, tuple[Dim, ...]]
    given: dict[str, ir.Value]
    pairs: list[Pair] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)
    context: dict[str, tuple[int, int]] = field(default_factory=dict)
    ignored: list[ir.Value] = field(default_factory=list)
    starts: list[ir.Value] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def adopt(path: Path | str, output: Path | str, options: Options | None = None) -> Adopted:
    """Make an artifact of a file, and prove that it computes what the file does.

    It appears at `output` when everything was proved, and only then; one that is there stays until it is replaced.

    Args:
        path: the file; weights beside it are read too.
        output: where the artifact goes.
        options: what cannot be found out.

    Raises:
        SourceError: the file cannot be read.
        AmbiguousError: what something is cannot be found out; the message names the flag.
        NotStreamableError: the file cannot be stepped, or carries nothing.
        StructureError: it has no gates to show.
        VerificationError: the artifact is not the same model; its `report` says where they differ.
        OSError: the artifact cannot be written.
    """
    path, options = Path(path), options or Options()
    model = reading.read(path)
    opset = model.opset_imports[""]
    work = _Work(
        model, Origin.of(path, model), options, _all_dims(model), {v.name or "": v for v in model.graph.inputs}
    )
    if work.origin.source.opset != opset:
        work.said.append(f"opset {work.origin.source.opset} converted to {opset}")
    _check_names(work)
    _fold(work)
    _prepare(work)
    _check_scalars(work)
    shorten(model)
    _find_states(work)
    signature = _signature(work)
    find_axes(Runner.of(model), signature, options, _tolerance(model), partial(_explained, work))
    _check_steps(work, signature)
    cells = cells_of(model, work.pairs)
    reference = _reference(path, work, signature)
    _note(work, signature)
    if count := convolutions.multiply_out(model, signature):
        work.said.append(f"convolutions of few positions as one product for all rows: {count}")
    work.said += normalise(model, signature)
    work.origin.source.rewritten.extend(work.said)
    spec = describe(
        signature,
        work.origin,
        cells,
        name=options.name or path.stem,
        version=options.version,
        opset=opset,
        windows=_windows(work, signature),
    )
    # Where gates are shown, a cell's weights have to be there as they are, and not as what makes them.
    lean.fold(model, everything=options.form is not None)
    lean.shorten_views(model)
    _finish(model)
    spec.stored_fingerprint = artifact.stored_fingerprint(model)
    if options.form is not None:
        reform(model, spec, options.form)
    with replacing(Path(output)) as draft:
        artifact.save(model, spec, draft)
        proof = prove(draft, reference, rows_may_differ=_rounds_by_range(model))
        proof.report.raise_for_failure()
        spec.parity.extend(proof.report.parity())
        spec.promises.rows_independent = proof.rows_independent
        spec.promises.replay_bit_equal = proof.replay_bit_equal
        artifact.save(model, spec, draft)
    return Adopted(Path(output), spec, proof.report)


# ---- Before anything is looked for --------------------------------------------------------


def _all_dims(model: ir.Model) -> dict[str, tuple[Dim, ...]]:
    return {value.name or "": dims_of(value) for value in (*model.graph.inputs, *model.graph.outputs)}


def _check_names(work: _Work) -> None:
    """Everything that the flags name is there."""
    inputs = [value.name or "" for value in work.model.graph.inputs]
    for flag, names in work.options.flags().items():
        if flag != "--initial" and (unknown := sorted(names - set(inputs))):
            raise AmbiguousError(f"{flag} {unknown[0]}: no input is called so; there are {', '.join(inputs)}")
    outputs = [value.name or "" for value in work.model.graph.outputs]
    for name, output in work.options.states.items():
        if output not in outputs:
            raise AmbiguousError(f"--state {name}={output}: no output is called so; there are {', '.join(outputs)}")


def _fold(work: _Work) -> None:
    """Constants for good, and inputs that nothing reads."""
    fixed = {name: value for name, value in work.options.constants.items() if value is not None}
    before = sum(1 for _ in work.model.graph.all_nodes())
    zeroed = {value.name or "": value for value in work.model.graph.inputs if preparing.is_multiplied_away(value)}
    for name, value in zeroed.items():
        if name not in fixed:
            work.ignored.append(value)
            work.origin.add(name, "ignored", work.dims[name], found="it is multiplied by zero")
    nothing = {name: preparing.zeros(value) for name, value in zeroed.items()}
    reading.fold(work.model, nothing | fixed)
    after = sum(1 for _ in work.model.graph.all_nodes())
    if fixed and after < before:
        work.said.append(f"constants folded: {after:,} nodes of {before:,}")
    for name, array in fixed.items():
        text = np.array2string(array, threshold=4)
        work.origin.add(name, "constant", work.dims[name], found=f"--constant {name}={text}")
    for value in list(work.model.graph.inputs):
        if not value.uses() and not value.is_graph_output() and value.name not in work.options.states:
            work.ignored.append(value)
            work.model.graph.inputs.remove(value)
            work.origin.add(value.name or "", "ignored", work.dims[value.name or ""], found="nothing reads it")


def _prepare(work: _Work) -> None:
    """Windows, contexts and constants of a session."""
    inputs = {value.name or "": value for value in work.model.graph.inputs}
    for name, samples in work.options.windows.items():
        if name in inputs:
            preparing.window(inputs[name], samples + work.options.context.get(name, 0))
    refusals.check(work.model, work.options.context.keys())
    for name, samples in work.options.context.items():
        if name in inputs:
            pair, axis = preparing.context(work.model, inputs[name], samples)
            work.pairs.append(pair)
            work.context[name] = samples, axis
            work.said.append(f"the last {samples} samples of '{name}' are kept as a state: they go before its window")
    for name, value in work.options.constants.items():
        if value is None and name in inputs:
            work.pairs.append(preparing.constant_of_session(work.model, inputs[name]))


def _check_scalars(work: _Work) -> None:
    """One number for all rows and steps of a run is a setting, and no input of a step."""
    told = work.options.time.keys() | work.options.constants.keys() | work.options.states.keys()
    for value in work.model.graph.inputs:
        if value.shape is not None and not dims_of(value) and value.name not in told:
            raise AmbiguousError(
                f"input '{value.name}' is one number, without sessions or time: where it has one value for good, "
                f"--constant {value.name}=VALUE; where every session sets it, --constant {value.name}; where every "
                f"step has its own, --time {value.name}:none"
            )


def _find_states(work: _Work) -> None:
    model, options = work.model, work.options
    graph = model.graph
    inputs = {value.name or "": value for value in graph.inputs}
    outputs = {value.name or "": value for value in graph.outputs}
    work.pairs += [
        Pair(inputs[name], outputs[output], "--state") for name, output in options.states.items() if name in inputs
    ]
    settled = _settled(work.pairs) | options.time.keys() | options.windows.keys() | options.context.keys()
    work.pairs += dataflow.pairs(model, settled)
    settled |= _settled(work.pairs)
    exposed = expose(model, settled)
    work.pairs += exposed
    work.hidden = {pair.input.name or "" for pair in exposed}
    if exposed:
        names = ", ".join(f"'{pair.input.name}'" for pair in exposed)
        work.said.append(f"states that the file keeps to itself are inputs and outputs: {names}")
    _note_starts(work)
    settled |= _settled(work.pairs)
    if not options.states:
        work.pairs += pairs_by_running(
            Runner.of(model),
            _ends(graph.inputs),
            _ends(graph.outputs),
            settled,
            fed=bool(options.time.keys() | options.windows.keys() | options.context.keys()),
            others=any(pair.role not in (pb.STATE_ROLE_CONTEXT, pb.STATE_ROLE_CONSTANT) for pair in work.pairs),
        )
    moving = [pair for pair in work.pairs if pair.role != pb.STATE_ROLE_CONSTANT]
    if not moving and not options.stateless:
        raise StatelessError(
            "no state: nothing is carried from one step to the next, no input and output belong together, and no "
            "operator keeps a state; name them with --state INPUT=OUTPUT, or serve it as it is with --stateless"
        )
    _set_initial(work)


def _note_starts(work: _Work) -> None:
    """Inputs that went with what they were: the start of states that have inputs of their own now."""
    gone = work.given.keys() - {value.name for value in (*work.model.graph.inputs, *work.ignored)}
    for name in sorted(gone - work.options.constants.keys()):
        work.starts.append(work.given[name])
        work.said.append(f"'{name}', from which states of other names start, is zeros for a new session")
        work.origin.add(name, "ignored", work.dims[name], found="what states start from")


def _settled(pairs: Sequence[Pair]) -> set[str]:
    return {value.name or "" for pair in pairs for value in (pair.input, pair.output)}


def _set_initial(work: _Work) -> None:
    states = {pair.input.name: pair for pair in work.pairs}
    for name, value in work.options.initial.items():
        if name not in states:
            known = ", ".join(str(each) for each in states) or "none"
            raise AmbiguousError(f"--initial {name}: no state is called so; there are {known}")
        dtype = states[name].input.dtype
        assert dtype is not None
        with np.errstate(over="ignore", invalid="ignore"):
            if not np.isfinite(value.astype(dtype.numpy())).all():
                raise AmbiguousError(f"--initial {name}: the state is {dtype.numpy()}, which has no such finite number")
        states[name].initial = value


def _ends(values: Sequence[ir.Value]) -> list[End]:
    found = [End.of(value) for value in values]
    for end in found:
        if end.dtype.kind in "iu" and end.value.is_graph_input():
            end.limit = preparing.embedding_limit(end.value)
    return found


def _signature(work: _Work) -> Signature:
    graph = work.model.graph
    starts = {pair.input: pair for pair in work.pairs}
    after = {pair.output for pair in work.pairs}
    outputs = [value for value in graph.outputs if value not in after]
    if not outputs:
        shown = [pair for pair in work.pairs if pair.role not in (pb.STATE_ROLE_CELL, pb.STATE_ROLE_CONSTANT)]
        outputs = [preparing.shown(work.model, pair) for pair in shown]
        names = ", ".join(f"'{value.name}'" for value in outputs)
        work.said.append(f"every output is a state's successor: what a step gives is a copy of them, {names}")
    inputs = [value for value in graph.inputs if value not in starts]
    if not inputs:
        names = ", ".join(f"'{value.name}'" for value in graph.inputs)
        raise AmbiguousError(
            f"no input of a step is left: {names} are all states or constants, "
            "and what comes with every step is none of them; leave out one's --state or --constant"
        )
    ends = _ends(graph.inputs)
    for end in ends:
        if end.dtype not in DTYPES.values():
            raise AmbiguousError(f"input '{end.name}' is of type {end.dtype}, which no artifact has")
    states = [
        Carried(starts[end.value], replace(end, dims=_merged(starts[end.value]))) for end in ends if end.value in starts
    ]
    return Signature([end for end in ends if end.value not in starts], _ends(outputs), states)


def _merged(pair: Pair) -> tuple[Dim, ...]:
    """What either end of a state says of its shape."""
    a, b = dims_of(pair.input), dims_of(pair.output)
    if len(a) != len(b):
        return a
    return tuple(m if isinstance(m, int) else n if isinstance(n, int) else m for m, n in zip(a, b, strict=True))


def _tolerance(model: ir.Model) -> float:
    if _rounds_by_range(model):
        return _CLOSE_QUANTISED
    halves = any(value.dtype == ir.DataType.FLOAT16 for value in model.graph.inputs) or any(
        value.dtype == ir.DataType.FLOAT16 for value in model.graph.initializers.values()
    )
    return _CLOSE_HALF if halves else _CLOSE


def _rounds_by_range(model: ir.Model) -> bool:
    """Whether an operator rounds all rows and steps of a run by one range."""
    return any(node.op_type.startswith("DynamicQuantize") for node in model.graph.all_nodes())


def _explained(work: _Work, feed: Mapping[str, Array], time: Mapping[str, int]) -> str:
    """Which node is the first whose steps do not add up."""
    try:
        parting = explain(work.model, work.pairs, feed, time, _tolerance(work.model))
    except ProbeError as error:
        return f"Which node it is cannot be seen: {error}"
    return "No single node parts from itself in halves" if parting is None else str(parting)


# ---- When the axes are known --------------------------------------------------------------


def _check_steps(work: _Work, signature: Signature) -> None:
    """A file without a time axis takes one step a run, unless it was said that a step is a window of several."""
    ends = signature.inputs
    told = work.options.time.keys() | work.options.windows.keys() | work.options.context.keys()
    layers = [node for node in work.model.graph if is_recurrent(node)]
    if not layers or any(end.time is not None for end in ends) or told & {end.name for end in ends}:
        return
    rng = np.random.default_rng(0)
    probe = Probe(work.model, [value for node in layers if (value := node.inputs[0]) is not None])
    found = probe.run({end.name: sample(end.dtype, end.limit, end.base, rng) for end in signature.fed})
    for node in layers:
        assert node.inputs[0] is not None
        if (steps := len(found[node.inputs[0].name or ""])) > 1:
            raise NotStreamableError(
                f"time is frozen inside: {node.op_type} '{node.name}' goes through {steps} steps in every run, and no "
                f"other number of them runs; export it with a time axis of any size, or, where what it takes in a run "
                f"is one step of yours, say so: --time {ends[0].name}:none"
            )


def _windows(work: _Work, signature: Signature) -> dict[str, tuple[int, int]]:
    found = {}
    for end in signature.inputs:
        samples = work.context.get(end.name, (0, 0))[0]
        if end.shape and (samples or (end.time is None and end.name in work.options.windows)):
            found[end.name] = end.shape[-1], samples
    return found


def _reference(path: Path, work: _Work, signature: Signature) -> Source:
    fixed: dict[str, Array] = {name: value for name, value in work.options.constants.items() if value is not None}
    original = set(work.dims)
    for value in (*work.ignored, *work.starts):
        name = value.name or ""
        shape = tuple(dim if isinstance(dim, int) else 1 for dim in work.dims[name])
        assert value.dtype is not None
        fixed[name] = np.full(shape, value in work.ignored, value.dtype.numpy())
    states, constants = [], []
    for state in signature.states:
        pair = state.pair
        if pair.role == pb.STATE_ROLE_CONSTANT and pair.found == "--constant":
            constants.append(Plan.of(state.end))
        elif pair.input.name in original:
            states.append(_carries(state))
    stepped = _rounds_by_range(work.model)
    if stepped and work.hidden:
        # A whole run of the file is rounded by another range than its steps: here only the rewriting is compared.
        runner, hidden = Runner.of(work.model), False
        states = [_carries(state) for state in signature.states if state.pair.role != pb.STATE_ROLE_CONSTANT]
    else:
        runner, hidden = source_runner(path, work.origin.source.sha256), bool(work.hidden)
    return Source(
        runner=runner,
        inputs=tuple(Plan.of(end) for end in signature.inputs),
        outputs=tuple(Plan.of(end) for end in signature.outputs if end.name in original),
        states=tuple(states),
        constants=tuple(constants),
        fixed=_fitted(fixed, work.given),
        context={
            end.name: (work.context[end.name][0], end.rest.index(work.context[end.name][1]))
            for end in signature.inputs
            if end.name in work.context
        },
        hidden=hidden,
        many=signature.many and not stepped,
    )


def _carries(state: Carried) -> Carries:
    initial = np.zeros(state.end.base) if state.pair.initial is None else state.pair.initial
    start = np.broadcast_to(initial, state.end.base).astype(state.end.dtype)
    return Carries(Plan.of(state.end), state.pair.output.name or "", start)


def _fitted(fixed: Mapping[str, Array], value_of: Mapping[str, ir.Value]) -> dict[str, Array]:
    """Constants in the type and rank that the file has for them."""
    found = {}
    for name, array in fixed.items():
        value = value_of[name]
        assert value.dtype is not None
        rank = len(value.shape or ())
        found[name] = (array.reshape([1] * rank) if array.size == 1 else array).astype(value.dtype.numpy())
    return found


def _note(work: _Work, signature: Signature) -> None:
    """Say what each of the file's inputs and outputs was found to be."""
    add = work.origin.add
    for end in signature.inputs:
        add(end.name, "input", work.dims.get(end.name, end.dims), end, found=_how(work, end), becomes=end.name)
    for end in signature.outputs:
        add(end.name, "output", work.dims.get(end.name, end.dims), end, found="by running it", becomes=end.name)
    for state in signature.states:
        pair, end = state.pair, state.end
        role = "constant" if pair.role == pb.STATE_ROLE_CONSTANT else "state"
        dims = work.dims.get(end.name, ())
        add(end.name, role, dims, end, found=pair.found, becomes=end.name)


def _how(work: _Work, end: End) -> str:
    options = work.options
    flags = [flag for flag, names in options.flags().items() if end.name in names]
    return " ".join(["by running it", *flags])


def _finish(model: ir.Model) -> None:
    model.ir_version = _IR_VERSION
    for step in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        step(model)
    # Of the branches of an `If` that is gone, too, which still count as users of what they read.
    read = {value for node in model.graph.all_nodes() for value in node.inputs}
    for name, value in list(model.graph.initializers.items()):
        if value not in read:
            del model.graph.initializers[name]
