"""What was verified, and how it went: for a person, a CI job and the spec."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from gatestream.export.errors import AccuracyError, ArtifactError
from gatestream.export.formats import precision_of
from gatestream.export.proof.accuracy import Accuracy
from gatestream.export.proof.comparison import Difference, DifferenceError, Figure
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: of the check.
        passed: it held.
        detail: what was found, in one line.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a verification. Checks after the first that failed were not made.

    Attributes:
        model: name in the spec.
        form: "gates" or "fused".
        weights: how they are stored: "float32", "float16" or "int8".
        opset: of the graph.
        torch_version: that traced it.
        gatestream_version: that wrote it.
        weights_fingerprint: of the checkpoint's weights; of weights in fewer bits, as they are in the file.
        checks: in the order in which they were made.
        figures: every comparison of numbers that passed.
        difference: where numbers first differ by too much, if they do.
        accuracy: of weights in fewer bits.
    """

    model: str
    form: str
    weights: str
    opset: int
    torch_version: str
    gatestream_version: str
    weights_fingerprint: str
    checks: tuple[Check, ...]
    figures: tuple[Figure, ...]
    difference: Difference | None
    accuracy: Accuracy | None = None

    @classmethod
    def of(
        cls,
        spec: pb.ModelSpec,
        checks: Sequence[Check],
        figures: Sequence[Figure] = (),
        difference: Difference | None = None,
    ) -> "Report":
        """What was checked of the file with this spec."""
        return cls(
            model=spec.name,
            form=pb.Form.Name(spec.form).removeprefix("FORM_").lower(),
            weights=precision_of(spec),
            opset=spec.opset,
            torch_version=spec.torch_version,
            gatestream_version=spec.gatestream_version,
            weights_fingerprint=spec.weights_fingerprint,
            checks=tuple(checks),
            figures=tuple(figures),
            difference=difference,
        )

    @property
    def passed(self) -> bool:
        """Every check held."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> str:
        """All of it, as a JSON object."""
        return json.dumps({"passed": self.passed} | asdict(self), indent=2) + "\n"

    def judged(self, accuracy: Accuracy, max_error: float | None) -> "Report":
        """With the accuracy that was measured, and whether it is enough."""
        try:
            check = Check("accuracy", True, accuracy.check(max_error))
        except AccuracyError as error:
            check = Check("accuracy", False, str(error))
        return replace(self, checks=(*self.checks, check), accuracy=accuracy)

    def raise_for_failure(self) -> None:
        """Raise what failed.

        Raises:
            VerificationError: a check did not hold.
        """
        if not self.passed:
            raise VerificationError(self)

    def parity(self) -> list[pb.ParityFigure]:
        """The comparisons with torch, NumPy, the source and the float32 network, as a spec has them: the worst."""
        found: dict[tuple[str, str], list[Figure]] = {}
        for figure in self.figures:
            if figure.reference in ("torch", "numpy", "source"):
                found.setdefault((figure.reference, figure.tensor), []).append(figure)
        return [
            pb.ParityFigure(
                reference=reference,
                tensor=tensor,
                max_abs_difference=max(figure.max_abs_difference for figure in figures),
                steps=max(figure.steps for figure in figures),
                exact=all(figure.exact for figure in figures),
            )
            for (reference, tensor), figures in found.items()
        ] + (self.accuracy.parity() if self.accuracy is not None else [])


class Checks:
    """Checks that are made one after another, until one fails.

    Attributes:
        made: in order.
        figures: every comparison of numbers that passed.
        difference: where numbers first differ by too much, if they do.
        failed: the last one made did not hold.
    """

    def __init__(self) -> None:
        self.made: list[Check] = []
        self.figures: list[Figure] = []
        self.difference: Difference | None = None
        self.failed = False

    def check(self, name: str, step: Callable[[], str]) -> None:
        """Make a check, unless one has failed.

        Args:
            name: of the check.
            step: says what was found; it raises ArtifactError where the check does not hold.
        """
        if self.failed:
            return
        try:
            detail = step()
        except ArtifactError as error:
            self.failed, detail = True, str(error)
            if isinstance(error, DifferenceError):
                self.difference = error.difference
        self.made.append(Check(name, not self.failed, detail))

    def report(self, spec: pb.ModelSpec) -> Report:
        """What was checked of the file with this spec."""
        return Report.of(spec, self.made, self.figures, self.difference)


class VerificationError(ArtifactError):
    """An artifact did not pass; `report` says what was checked and what was found."""

    def __init__(self, report: Report) -> None:
        failed = next(check for check in report.checks if not check.passed)
        super().__init__(f"{failed.name}: {failed.detail}")
        self.report = report
