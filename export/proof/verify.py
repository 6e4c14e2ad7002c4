"""All checks of a file, in order: what it is, then what it computes."""

from collections.abc import Callable, Mapping
from pathlib import Path

from gatestream.export.artifact import Artifact, load, weights
from gatestream.export.errors import FingerprintError
from gatestream.export.finder import finder
from gatestream.export.finder.agreement import check_agreement
from gatestream.export.finder.structure import Structure
from gatestream.export.formats import precision_of
from gatestream.export.proof import int8_parity, parity
from gatestream.export.proof.comparison import Figure, summary
from gatestream.export.proof.contract import check_contract, check_model
from gatestream.export.proof.fingerprint import check_fingerprint
from gatestream.export.proof.int8_parity import Int8Model
from gatestream.export.proof.parity import Model, Reference, Runnable
from gatestream.export.proof.report import Checks, Report
from gatestream.export.proof.rounding import Rounding
from gatestream.export.proof.runtime import Session
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import Array
from gatestream.protos.weights import fingerprint

_STEPS = 32
"""Carried steps in an examination: enough for every path, and quick."""


def verify(path: Path, exported: Mapping[str, Array], torch_reference: Reference) -> Report:
    """Prove that a file is the network that it was exported from.

    Args:
        path: the file.
        exported: what the network's weights become in the file (`precision.rounded`), by the checkpoint's names.
        torch_reference: the network with these weights. It is not asked where they are int8: torch has no such network.

    Returns:
        What was found; it does not raise for a file that fails, see `Report.raise_for_failure`.

    Raises:
        FileNotFoundError: there is no file.
        SpecError: the file has no spec that this version can read.
    """
    artifact = load(path)
    run = _Run(artifact)
    run.file()
    run.check("checkpoint", lambda: _same_weights(exported, artifact.spec))
    run.compare("carried steps", lambda model: _carried(model, parity.STEPS, torch_reference), exported)
    run.compare("rows together", parity.together, exported)
    run.compare("rows of unlike length", parity.ragged, exported)
    return run.report(artifact.spec)


def examine(artifact: Artifact) -> tuple[Structure | None, Report]:
    """Ask a file what can be asked of it alone: its numbers are compared with those that its own weights give.

    Args:
        artifact: what was read from the file.

    Returns:
        The structure, where it was found, and what was checked.
    """
    run = _Run(artifact)
    run.file()
    found = run.weights
    if not run.failed:
        run.compare("carried steps", lambda model: _carried(model, _STEPS), found)
        run.compare("rows of unlike length", parity.ragged, found)
    return run.structure, run.report(artifact.spec)


class _Run(Checks):
    """Of gatestream's own network."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__()
        self.artifact = artifact
        self.structure: Structure | None = None
        self.weights: dict[str, Array] = {}
        self._model: Runnable | None = None

    def file(self) -> None:
        """What can be checked without running the model."""
        self.check("model", lambda: check_model(self.artifact))
        self.check("contract", lambda: check_contract(self.artifact))
        self.check("gates", self._find)
        self.check("weights", self._fingerprint)

    def compare(self, name: str, compare: Callable[[Runnable], list[Figure]], weights: Mapping[str, Array]) -> None:
        def step() -> str:
            if self._model is None:
                self._model = _runnable(self.artifact, weights)
            figures = compare(self._model)
            self.figures += figures
            return summary(figures)

        self.check(name, step)

    def _find(self) -> str:
        self.structure = finder.find(self.artifact.model)
        return check_agreement(self.structure, self.artifact.spec)

    def _fingerprint(self) -> str:
        assert self.structure is not None  # the check before this one passed
        self.weights = weights(self.artifact.model, self.structure)
        return check_fingerprint(self.weights, self.artifact.spec, self.structure)


def _runnable(artifact: Artifact, weights: Mapping[str, Array]) -> Runnable:
    spec = artifact.spec
    session = Session(artifact.path, spec)
    if precision_of(spec) == "int8":
        return Int8Model(session, spec, weights)
    return Model(session, spec, Rounding(weights, spec))


def _carried(model: Runnable, steps: int, torch: Reference | None = None) -> list[Figure]:
    if isinstance(model, Int8Model):
        return int8_parity.carried(model, steps)
    assert isinstance(model, Model)  # `_runnable` makes no other
    return parity.carried(model, torch, steps)


def _same_weights(exported: Mapping[str, Array], spec: pb.ModelSpec) -> str:
    found = fingerprint(exported)
    if found != spec.weights_fingerprint:
        raise FingerprintError(
            f"the checkpoint's weights hash to {found[:16]}, the file's to {spec.weights_fingerprint[:16]}"
        )
    return f"its {len(exported)} tensors are those of the file"
