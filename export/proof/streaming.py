"""The proof of any recurrent model: however it is run, a session's numbers are the same, and those of its source."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from gatestream.export.artifact import Artifact, load
from gatestream.export.proof.contract import check_any_contract, check_model
from gatestream.export.proof.reference import Reference
from gatestream.export.proof.report import Report
from gatestream.export.proof.stream_checks import StreamChecks


@dataclass(frozen=True, slots=True)
class Proof:
    """What was proved.

    Attributes:
        report: every check, in order, up to the first that failed.
        rows_independent: a row's numbers do not depend on the rows beside it.
        replay_bit_equal: run again, the model gives the same bits.
        unheard: states that were given, and that changed nothing when they were lost.
    """

    report: Report
    rows_independent: bool
    replay_bit_equal: bool
    unheard: Sequence[str] = ()


def prove(
    path: Path,
    reference: Reference | None = None,
    *,
    rows_may_differ: bool = False,
    given: Collection[str] | None = None,
) -> Proof:
    """Prove that an artifact of contract 2 can be stepped, and computes what its source does.

    Args:
        path: the file, its spec as it is to be but for parity figures and promises.
        reference: its source.
        rows_may_differ: an operator that rounds all rows and steps of a run by one range is in it. Then what
            depends on how a run is made up is measured and not judged.
        given: inputs of states that somebody named as such: one of which nothing is heard is said and not judged; None:
            nobody can.

    Returns:
        What was found; it does not raise for a file that fails, see `Report.raise_for_failure`.

    Raises:
        FileNotFoundError: there is no file.
        SpecError: the file has no spec that this version can read.
    """
    return prove_artifact(load(path), reference, rows_may_differ=rows_may_differ, given=given)


def prove_artifact(
    artifact: Artifact,
    reference: Reference | None = None,
    *,
    rows_may_differ: bool = False,
    given: Collection[str] | None = None,
    gates: Callable[[], str] | None = None,
) -> Proof:
    """As `prove`, of a file that was read.

    Args:
        artifact: the file.
        reference: as of `prove`.
        rows_may_differ: as of `prove`.
        given: as of `prove`.
        gates: a check of what its spec says of its gates, made before it is run.
    """
    run = StreamChecks(artifact, reference, rows_may_differ, given)
    run.check("model", lambda: check_model(run.artifact))
    run.check("contract", lambda: check_any_contract(run.artifact))
    if gates is not None:
        run.check("gates", gates)
    run.check("replay", run.replay)
    run.check("rows together", run.together)
    run.check("carried steps", run.carried)
    run.check("chunks", run.chunks)
    run.check("rows of unlike length", run.ragged)
    run.check("states", run.states)
    return Proof(run.report(run.artifact.spec), run.independent, run.bit_equal, run.unheard)
