"""What a file is, as far as the file alone can show."""

from dataclasses import dataclass
from pathlib import Path

from gatestream.export.artifact import Artifact, load
from gatestream.export.finder.structure import Structure
from gatestream.export.proof.report import Report
from gatestream.export.proof.verify import examine


@dataclass(frozen=True, slots=True)
class Inspection:
    """A file that holds what it says.

    Attributes:
        artifact: the file and its spec.
        structure: the cells and gates that were found in it.
        report: what was checked just now.
    """

    artifact: Artifact
    structure: Structure
    report: Report


def inspect(path: Path | str) -> Inspection:
    """Read a file, find its gates by data flow, and check all of it against what it says of itself.

    Its numbers are compared, over a short run, with what its own weights give in NumPy.

    Raises:
        FileNotFoundError: there is none.
        ArtifactError: it is not an ONNX file.
        SpecError: it has no spec that this version can read.
        VerificationError: it is not what its spec says; the message names the check and what was found.
    """
    return inspect_artifact(load(path))


def inspect_artifact(artifact: Artifact) -> Inspection:
    """As `inspect`, of a file that was read.

    Raises:
        VerificationError: it is not what its spec says; the message names the check and what was found.
    """
    structure, report = examine(artifact)
    report.raise_for_failure()
    assert structure is not None  # a check that passed found it
    return Inspection(artifact, structure, report)
