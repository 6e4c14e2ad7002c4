"""From anybody's ONNX file to an artifact, proved against the file itself."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import onnx_ir as ir
import onnx_ir.passes.common as common

from gatestream.export import artifact
from gatestream.export.adopting import given, reading, refusals, told
from gatestream.export.adopting.axes import find_axes
from gatestream.export.adopting.comparing import source_of
from gatestream.export.adopting.describe import cells_of, describe
from gatestream.export.adopting.explaining import explain
from gatestream.export.adopting.finding import find_states, signature_of
from gatestream.export.adopting.frozen import check_steps
from gatestream.export.adopting.lean import shorten_views
from gatestream.export.adopting.naming import shorten
from gatestream.export.adopting.normalise import normalise
from gatestream.export.adopting.options import Options
from gatestream.export.adopting.probing import ProbeError
from gatestream.export.adopting.reference import Source
from gatestream.export.adopting.running import Array, Runner
from gatestream.export.adopting.signature import End, Signature
from gatestream.export.adopting.work import Work
from gatestream.export.graph.folding import fold
from gatestream.export.proof.report import Report
from gatestream.export.proof.streaming import prove
from gatestream.export.rewriting.convolutions import multiply_out
from gatestream.export.rewriting.reform import reform
from gatestream.files.writing import replacing
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_IR_VERSION: Final = 10


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
    digest = hashlib.sha256()
    model = reading.read(path, digest)
    opset = model.opset_imports[""]
    work = Work.of(path, model, options)
    if work.origin.source.opset != opset:
        work.said.append(f"opset {work.origin.source.opset} converted to {opset}")
    refusals.check_types(model)
    told.check_names(work)
    told.fold(work)
    told.prepare(work)
    told.check_scalars(work)
    shorten(model)
    find_states(work)
    signature = signature_of(work)
    runner = Runner.of(model)
    find_axes(runner, signature, options, work.tolerance, partial(_explained, work))
    check_steps(work, signature)
    cells = cells_of(model, work.pairs)
    reference = source_of(path, digest.hexdigest(), work, signature)
    unproved = _unproved(work, reference, runner, signature)
    _note(work, signature)
    signature.annotate()
    work.said += multiply_out(model)
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
    fold(model, everything=options.form is not None)
    shorten_views(model)
    _finish(model)
    spec.stored_fingerprint = artifact.stored_fingerprint(model)
    if options.form is not None:
        reform(model, spec, options.form)
    with replacing(Path(output)) as draft:
        artifact.save(model, spec, draft)
        proof = prove(draft, reference, rows_may_differ=work.rounds_by_range, given=options.states)
        proof.report.raise_for_failure()
        spec.parity.extend(proof.report.parity())
        spec.promises.rows_independent = proof.rows_independent
        spec.promises.replay_bit_equal = proof.replay_bit_equal
        spec.promises.unproved_states.extend([*unproved, *(name for name in proof.unheard if name not in unproved)])
        artifact.save(model, spec, draft)
    return Adopted(Path(output), spec, proof.report)


def _unproved(work: Work, reference: Source, runner: Runner, signature: Signature) -> list[str]:
    """States that are paired as they were given, and as nothing else shows: a source of one step a run has no say."""
    if reference.many or not work.unshown:
        return []
    shown = given.shown_by_running(runner, signature, work.unshown)
    return [name for name in work.unshown if name not in shown]


def _explained(work: Work, feed: Mapping[str, Array], time: Mapping[str, int]) -> str:
    """Which node is the first whose steps do not add up."""
    try:
        parting = explain(work.model, work.pairs, feed, time, work.tolerance)
    except ProbeError as error:
        return f"Which node it is cannot be seen: {error}"
    return "No single node parts from itself in halves" if parting is None else str(parting)


def _windows(work: Work, signature: Signature) -> dict[str, tuple[int, int]]:
    found = {}
    for end in signature.inputs:
        samples = work.context.get(end.name, (0, 0))[0]
        if end.shape and (samples or (end.time is None and end.name in work.options.windows)):
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
    # Of the branches of an `If` that is gone, too, which still count as users of what they read.
    read = {value for node in model.graph.all_nodes() for value in node.inputs}
    for name, value in list(model.graph.initializers.items()):
        if value not in read:
            del model.graph.initializers[name]
