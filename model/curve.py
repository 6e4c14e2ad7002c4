"""The learning curve of a run, as a picture."""

from pathlib import Path

from matplotlib.figure import Figure

from gatestream.files.marks import picture_metadata
from gatestream.files.writing import replacing
from gatestream.model.training import Trainer


def draw_curve(trainer: Trainer, path: Path) -> None:
    """Draw the loss of every update and the score of every evaluation.

    Args:
        trainer: the run.
        path: where to; the suffix says in which format (.png, .svg).
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(range(1, len(trainer.losses) + 1), trainer.losses, color="tab:blue", linewidth=0.8)
    axes.set_xlabel("update")
    axes.set_ylabel("training loss", color="tab:blue")
    axes.set_title(f"{trainer.network.config.name}: {trainer.best[2]}", fontsize=10)
    scores = axes.twinx()
    scores.plot(
        [update for update, _, _ in trainer.evaluations],
        [score for _, score, _ in trainer.evaluations],
        color="tab:orange",
        marker="o",
    )
    scores.set_ylabel(trainer.task.score_label, color="tab:orange")
    with replacing(path) as draft:
        figure.savefig(draft, dpi=120, metadata=picture_metadata(draft.suffix))
