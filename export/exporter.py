"""From a network to its artifact, verified."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch  # noqa: TID251 (the only file here besides sources/ that does)
from numpy.typing import NDArray
from onnx_ir.passes import InvariantError, PassError

from gatestream.export import artifact
from gatestream.export.errors import ArtifactError, PrecisionError, StructureError
from gatestream.export.formats import Precision, rounded
from gatestream.export.graph.passes import tidy
from gatestream.export.proof.accuracy import measure
from gatestream.export.proof.parity import Reference
from gatestream.export.proof.report import Check, Report, VerificationError
from gatestream.export.proof.verify import examine, verify
from gatestream.export.rewriting.fuse import Fuse
from gatestream.export.rewriting.naming import NameCells
from gatestream.export.rewriting.narrow import narrow
from gatestream.export.sources.checkpoint import OPSET, trace
from gatestream.export.spec import describe
from gatestream.files.writing import replacing
from gatestream.model.network import Network
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import Array
from gatestream.protos.weights import fingerprint

Form = Literal["gates", "fused"]
FORMS: dict[Form, pb.Form] = {"gates": pb.FORM_GATES, "fused": pb.FORM_FUSED}


def export(
    network: Network,
    path: Path | str,
    form: Form,
    *,
    version: str = "1",
    weights: Precision = "float32",
    max_error: float | None = None,
) -> Report:
    """Write a network as an artifact, and prove that it is the same network.

    With weights in fewer bits the file is proved to be the network of the rounded weights, and measured against the
    network itself: see `Report.accuracy`.

    The file appears at `path` when everything was proved, and only then; one that is there stays until it is
    replaced.

    Args:
        network: what to export.
        path: where the artifact goes.
        form: "gates" shows the equations and puts the gates out; "fused" is the ONNX LSTM operator.
        version: what the server calls this version of the model.
        weights: how they are stored, see `precision`.
        max_error: with weights in fewer bits, how far an output may be from the float32 network's over `parity.STEPS`
            carried steps; in normalised units where the graph denormalises it. None: any.

    Returns:
        What was verified.

    Raises:
        PrecisionError: a weight does not fit, or the form has no weights of this kind.
        VerificationError: the file is not the same network, or not accurate enough; its `report` says where they
            differ.
        OSError: the file cannot be written.
    """
    if weights == "int8" and form == "fused":
        raise PrecisionError(
            "weights int8 need form gates: onnxruntime's quantised LSTM operator rounds all rows of a run by one "
            "range, so that a session's numbers would depend on the sessions beside it"
        )
    stands_for = rounded(weights_of(network), weights)
    spec = spec_of(network, form, weights, version=version)
    try:
        model = build(network, form)
    except ArtifactError as error:
        raise VerificationError(Report.of(spec, [Check("build", False, str(error))])) from error
    with replacing(Path(path)) as draft:
        float32 = draft.with_name(f"float32-{draft.name}")
        if weights != "float32":
            artifact.save(model, spec_of(network, form, version=version), float32)
            narrow(model, weights)
        artifact.save(model, spec, draft)
        report = verify(draft, stands_for, reference(with_weights(network, stands_for)))
        report.raise_for_failure()
        if weights != "float32":
            report = report.judged(measure(draft, float32, spec, reference(network)), max_error)
            report.raise_for_failure()
        spec.parity.extend(report.parity())
        artifact.save(model, spec, draft)
        # What is published is what was verified but for the figures: read it once more, as a reader will.
        _, again = examine(artifact.load(draft))
        again.raise_for_failure()
    return report


def spec_of(network: Network, form: Form, weights: Precision = "float32", *, version: str = "1") -> pb.ModelSpec:
    """What a network's artifact says of itself, as yet without parity figures.

    Raises:
        PrecisionError: a weight does not fit.
    """
    return describe(
        network.config,
        FORMS[form],
        version=version,
        fingerprint=fingerprint(rounded(weights_of(network), weights)),
        opset=OPSET,
        torch_version=torch.__version__,
        weights=weights,
    )


def build(network: Network, form: Form) -> ir.Model:
    """The graph of a network in one of the two forms, as yet without its spec.

    Raises:
        ArtifactError: torch cannot export it, or what came out is no stack of LSTM cells.
    """
    try:
        model = trace(network)
        tidy()(model)
        NameCells()(model)
        if form == "fused":
            Fuse()(model)
    except torch.onnx.OnnxExporterError as error:
        raise ArtifactError(f"torch {torch.__version__} cannot export it: {error}") from error
    except (PassError, InvariantError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise StructureError(str(cause)) from error
    return model


def with_weights(network: Network, weights: Mapping[str, Array]) -> Network:
    """A copy of a network with other weights, by the checkpoint's names."""
    copy = deepcopy(network)
    copy.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
    return copy


def weights_of(network: Network) -> dict[str, Array]:
    """A network's parameters as NumPy arrays, by the names that the checkpoint has for them."""
    return {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}


def reference(network: Network) -> Reference:
    """A network's own `step`, carried from step to step, as something to compare a file with."""

    def run(x: NDArray[np.generic], h: Array, c: Array) -> dict[str, Array]:
        state = torch.from_numpy(h), torch.from_numpy(c)
        steps = []
        with _one_thread(), torch.no_grad():
            for below in torch.from_numpy(x).unbind(dim=1):
                y, state, gates = network.step(below, state)
                steps.append((y, *state, *gates))
        return {
            name: torch.stack(column, dim=1).numpy()
            for name, column in zip("yhcifgo", zip(*steps, strict=True), strict=True)
        }

    return run


@contextmanager
def _one_thread() -> Iterator[None]:
    """Steps of few rows are up to twenty times slower on two busy cores than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
