"""From anybody's ONNX file to an artifact, proved against the file itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer import fold_constants

from gatestream.export import artifact
from gatestream.export.adopting import reading
from gatestream.export.adopting.axes import find_axes
from gatestream.export.adopting.describe import Origin, cells_of, describe
from gatestream.export.adopting.explaining import explain
from gatestream.export.adopting.normalise import normalise
from gatestream.export.adopting.options import Options
from gatestream.export.adopting.original import reference_of
from gatestream.export.adopting.probing import Probe, ProbeError
from gatestream.export.adopting.running import Array, Runner, sample
from gatestream.export.adopting.signature import Dim, End, Signature, dims_of
from gatestream.export.adopting.slots import is_recurrent
from gatestream.export.adopting.states_of import check_names, check_scalars, find_states, fold, prepare, signature_of
from gatestream.export.adopting.work import Work, rounds_by_range, tolerance
from gatestream.export.errors import NotStreamableError
from gatestream.export.proof.report import Report
from gatestream.export.proof.streaming import prove
from gatestream.export.rewriting.reform import reform
from gatestream.files.writing import replacing
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.weights import intact_fingerprint

_IR_VERSION: Final = 10
_LARGEST_WEIGHT: Final = 2**28
"""Bytes of a tensor that is computed beforehand."""


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
    work = Work(model, Origin.of(path, model), options, _all_dims(model), {v.name or "": v for v in model.graph.inputs})
    if work.origin.source.opset != opset:
        work.said.append(f"opset {work.origin.source.opset} converted to {opset}")
    check_names(work)
    fold(work)
    prepare(work)
    check_scalars(work)
    find_states(work)
    signature = signature_of(work)
    find_axes(Runner.of(model), signature, options, tolerance(model), partial(_explained, work))
    _check_steps(work, signature)
    cells = cells_of(model, work.pairs)
    reference = reference_of(path, work, signature)
    _note(work, signature)
    work.said += normalise(model, signature)
    if options.form is not None:  # a cell's weights have to be there as they are, and not as what makes them
        fold_constants(model, input_size_limit=_LARGEST_WEIGHT, output_size_limit=_LARGEST_WEIGHT)
    _finish(model)
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
    spec.stored_fingerprint = intact_fingerprint(
        {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    )
    if options.form is not None:
        reform(model, spec, options.form)
    with replacing(Path(output)) as draft:
        artifact.save(model, spec, draft)
        proof = prove(draft, reference, rows_may_differ=rounds_by_range(model))
        proof.report.raise_for_failure()
        spec.parity.extend(proof.report.parity())
        spec.promises.rows_independent = proof.rows_independent
        spec.promises.replay_bit_equal = proof.replay_bit_equal
        artifact.save(model, spec, draft)
    return Adopted(Path(output), spec, proof.report)


def _all_dims(model: ir.Model) -> dict[str, tuple[Dim, ...]]:
    return {value.name or "": dims_of(value) for value in (*model.graph.inputs, *model.graph.outputs)}


def _explained(work: Work, feed: Mapping[str, Array], time: Mapping[str, int]) -> str:
    """Which node is the first whose steps do not add up."""
    try:
        parting = explain(work.model, work.pairs, feed, time, tolerance(work.model))
    except ProbeError as error:
        return f"Which node it is cannot be seen: {error}"
    return "No single node parts from itself in halves" if parting is None else str(parting)


def _check_steps(work: Work, signature: Signature) -> None:
    """A file without a time axis takes one step a run, unless it was said that a step is a window of several."""
    ends = signature.inputs
    told = work.options.time.keys() | work.options.windows.keys() | work.options.context.keys()
    layers = [node for node in work.model.graph if is_recurrent(node)]
    if not layers or any(end.time is not None for end in ends) or told & {end.name for end in ends}:
        return
    rng = np.random.default_rng(0)
    probe = Probe(work.model, [value for node in layers if (value := node.inputs[0]) is not None])
    found = probe.run({end.name: sample(end, end.base, rng) for end in signature.fed})
    for node in layers:
        assert node.inputs[0] is not None
        if (steps := len(found[node.inputs[0].name or ""])) > 1:
            raise NotStreamableError(
                f"time is frozen inside: {node.op_type} '{node.name}' goes through {steps} steps in every run, and no "
                f"other number of them runs; export it with a time axis of any size, or, where what it takes in a run "
                f"is one step of yours, say so: --time {ends[0].name}:none"
            )


def _windows(work: Work, signature: Signature) -> dict[str, tuple[int, int]]:
    found = {}
    for end in signature.inputs:
        samples = work.context.get(end.name, (0, 0))[0]
        if end.time is None and end.shape and (samples or end.name in work.options.windows):
            found[end.name] = end.shape[-1], samples
    return found


def _note(work: Work, signature: Signature) -> None:
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


def _how(work: Work, end: End) -> str:
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
