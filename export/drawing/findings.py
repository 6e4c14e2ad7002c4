"""What anybody's file is, as far as the file alone can show."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from gatestream.export.artifact import Artifact, of, parse
from gatestream.export.drawing.inspection import Inspection, inspect_artifact
from gatestream.export.finder.cells import FoundCell
from gatestream.export.finder.claims import check_claims
from gatestream.export.finder.scopes import Scopes
from gatestream.export.finder.survey import survey
from gatestream.export.proof.report import Check
from gatestream.export.proof.streaming import prove_artifact
from gatestream.protos import spec as specs
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


@dataclass(frozen=True, slots=True)
class Findings:
    """A file with cells of any kind, which holds what it says, if it says anything.

    Attributes:
        path: of the file.
        size: of the file, bytes.
        model: its graph; a stranger's is brought to the opset of the contract.
        spec: what it says of itself; None: it is no artifact.
        cells: that data flow shows.
        checks: what was checked just now; of a file that is no artifact nothing can be.
    """

    path: Path
    size: int
    model: ir.Model
    spec: pb.ModelSpec | None
    cells: tuple[FoundCell, ...]
    checks: tuple[Check, ...] = ()

    def outputs(self, cell: FoundCell) -> Mapping[str, str]:
        """By symbol, the graph's outputs with the activations of a cell's gates."""
        scopes = Scopes(self.model)
        sources = {scopes.origin(value): value.name or "" for value in self.model.graph.outputs}
        return {symbol: sources[gate.activation] for symbol, gate in cell.gates.items() if gate.activation in sources}


def look(path: Path | str) -> Inspection | Findings:
    """Read any ONNX file, find its gates by data flow, and check it against what it says of itself.

    Args:
        path: of an artifact, or of anybody's file.

    Raises:
        FileNotFoundError: there is none.
        ArtifactError: it is not an ONNX file, or has recurrent operators that cannot be read.
        SpecError: it has a spec that this version cannot read.
        ModuleNotFoundError: it is no artifact, and what reads any file is not installed.
        VerificationError: it is not what its spec says; the message names the check and what was found.
    """
    path = Path(path)
    proto, size = parse(path)
    if all(entry.key != specs.KEY for entry in proto.metadata_props):
        from gatestream.export.adopting import reading  # needs onnxscript, which what reads artifacts does without

        model = reading.put_in_order(proto, path)
        return Findings(path, size, model, None, survey(model))
    artifact = of(proto, size, path)
    return inspect_artifact(artifact) if artifact.spec.contract == specs.CONTRACT else _checked(artifact)


def _checked(artifact: Artifact) -> Findings:
    """An artifact of contract 2."""
    spec = artifact.spec
    promises = spec.promises
    report = prove_artifact(
        artifact,
        rows_may_differ=not promises.rows_independent,
        given=promises.unproved_states,
        gates=lambda: check_claims(artifact.model, spec),
    ).report
    report.raise_for_failure()
    cells = survey(artifact.model, [state.input for state in spec.states])
    return Findings(artifact.path, artifact.size, artifact.model, spec, cells, report.checks)
