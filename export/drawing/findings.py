"""What anybody's file is, as far as the file alone can show."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from gatestream.export.artifact import Artifact, load
from gatestream.export.drawing.inspection import Inspection, inspect
from gatestream.export.errors import ArtifactError
from gatestream.export.finder.cells import FoundCell
from gatestream.export.finder.claims import check_claims
from gatestream.export.finder.scopes import Scopes
from gatestream.export.finder.survey import survey
from gatestream.export.proof.contract import check_any_contract, check_model
from gatestream.export.proof.report import Check, Checks
from gatestream.export.proof.streaming import prove
from gatestream.files.reading import read
from gatestream.protos import spec as specs
from gatestream.protos.bounds import LARGEST_FILE
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
    try:
        metadata = onnx.load_model_from_string(read(path, LARGEST_FILE)).metadata_props
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; make one with `gatestream export`") from None
    except OSError:
        raise
    except Exception as error:  # protobuf raises whatever the bytes lead it to
        raise ArtifactError(f"{path}: not an ONNX model: {error}") from error
    if all(entry.key != specs.KEY for entry in metadata):
        from gatestream.export.adopting import reading  # needs onnxscript, which what reads artifacts does without

        model = reading.read(path)
        return Findings(path, path.stat().st_size, model, None, survey(model))
    artifact = load(path)
    return inspect(path) if artifact.spec.contract == specs.CONTRACT else _checked(artifact)


def _checked(artifact: Artifact) -> Findings:
    """An artifact of contract 2."""
    spec = artifact.spec
    checks = Checks()
    checks.check("model", lambda: check_model(artifact))
    checks.check("contract", lambda: check_any_contract(artifact))
    checks.check("gates", lambda: check_claims(artifact.model, spec))
    checks.report(spec).raise_for_failure()
    promises = spec.promises
    report = prove(artifact.path, rows_may_differ=not promises.rows_independent, given=promises.unproved_states).report
    report.raise_for_failure()
    cells = survey(artifact.model, [state.input for state in spec.states])
    return Findings(artifact.path, artifact.size, artifact.model, spec, cells, (*checks.made, *report.checks[2:]))
