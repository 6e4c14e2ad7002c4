"""What the forget gate is for: the same network, trained the same way, with that gate held at 1.

`python -m gatestream.model.counter_proof PICTURE` trains both on the continual embedded Reber grammar and
draws what comes of it. With f = 1 the cell is that of 1997, which can only add: in a stream without an end
its cell state grows without an end, and the output no longer follows the input (Gers, Schmidhuber and
Cummins, Learning to Forget, Neural Computation 12(10), 2000, sections 2 and 4).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import click
import numpy as np
import torch
from matplotlib.figure import Figure

from gatestream.cli.outcome import Outcome
from gatestream.files import outputs
from gatestream.files.marks import picture_metadata
from gatestream.files.names import shown
from gatestream.files.writing import replacing
from gatestream.model.cell import LSTMCell
from gatestream.model.network import Network
from gatestream.model.tasks.reber import Reber, Streams, illegal
from gatestream.model.training import Settings, Trainer

_HELD = 100.0  # sigma(100) is 1 in float32, exactly


@dataclass(frozen=True, slots=True)
class Course:
    """How a network fared.

    Attributes:
        updates: after how many the share in `learning` was measured.
        learning: illegal predictions in 1,000, on fresh streams.
        positions: symbols since the streams began, at the end of each block of `drift` and `cell`.
        drift: illegal predictions in 1,000, by position in unbroken streams, after training.
        cell: the largest absolute cell state, by position.
    """

    updates: list[int]
    learning: list[float]
    positions: list[int]
    drift: list[float]
    cell: list[float]


def hold_forget_gates(network: Network) -> None:
    """Fix the forget gates at 1, whatever comes in and however the network is trained."""
    for cell in cast(Iterable[LSTMCell], network.cells):
        gate = cell.forget_gate.requires_grad_(requires_grad=False)
        gate.W.zero_()
        gate.R.zero_()
        gate.b.fill_(_HELD)


def run(*, hold: bool, updates: int, every: int, seed: int = 0) -> Course:
    """Train a network as `gatestream train reber` does, and watch it.

    Args:
        hold: with the forget gate held at 1.
        updates: to train for.
        every: updates between two measurements.
        seed: of the streams and the initial weights.
    """
    task = Reber(streams=64, steps=100, seed=seed)
    settings = Settings(updates=updates, learning_rate=0.01, interval=every, seed=seed)
    trainer = Trainer(task, task.config("reber", hidden=32, layers=1), settings)
    if hold:
        hold_forget_gates(trainer.network)
    course = Course([], [], [], [], [])
    for update in range(1, updates + 1):
        trainer.update()
        if update % every == 0:
            course.updates.append(update)
            course.learning.append(_watch(trainer.network, symbols=2000)[1][-1])
    positions, drift, cell = _watch(trainer.network, symbols=20_000)
    course.positions.extend(positions)
    course.drift.extend(drift)
    course.cell.extend(cell)
    return course


def _watch(network: Network, symbols: int) -> tuple[list[int], list[float], list[float]]:
    """Positions, illegal predictions in 1,000 and largest cell states of 64 unbroken streams."""
    count, block = 64, 500
    streams, state = Streams(count, seed=7), network.initial_state(count)
    positions, shares, cells = [], [], []
    for begin in range(0, symbols, block):
        inputs, _, legal = streams.take(block)
        with torch.inference_mode():
            scores, state = network.fast(torch.from_numpy(inputs), state)
        positions.append(begin + block)
        shares.append(1000 * illegal(scores.numpy(), legal) / legal[..., 0].size)
        cells.append(state[1].abs().max().item())
    return positions, shares, cells


def draw(courses: dict[str, Course], path: Path) -> None:
    """Draw the courses side by side; the suffix of `path` says in which format (.png, .svg)."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    learning, drift, cell = figure.subplots(1, 3)
    for label, course in courses.items():
        learning.plot(course.updates, course.learning, marker=".", label=label)
        drift.plot(course.positions, course.drift, label=label)
        cell.plot(course.positions, course.cell, label=label)
    learning.set(title="while training", xlabel="update", ylabel="illegal predictions in 1,000")
    drift.set(title="unbroken streams, after training", xlabel="symbol", ylabel="illegal predictions in 1,000")
    cell.set(title="unbroken streams, after training", xlabel="symbol", ylabel="largest |c|", yscale="log")
    for axes in (learning, drift):
        axes.set_ylim(bottom=-5)
    learning.legend()
    with replacing(path) as draft:
        figure.savefig(draft, dpi=120, metadata=picture_metadata(draft.suffix))


@click.command(cls=Outcome)
@click.argument("picture", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--updates", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--force", is_flag=True, help="Overwrite a file that gatestream did not make.")
def main(picture: Path, updates: int, force: bool) -> None:
    """Train the reference network with and without its forget gate, and draw PICTURE (.png or .svg)."""
    if picture.suffix not in (".png", ".svg"):
        raise click.UsageError(f"PICTURE is {shown(picture)}; expected a name that ends in .png or .svg")
    outputs.check([outputs.Output("PICTURE", picture, "picture")], {}, force=force)
    torch.set_num_threads(1)
    courses = {}
    for label, hold in (("forget gate learned", False), ("forget gate held at 1", True)):
        course = courses[label] = run(hold=hold, updates=updates, every=50)
        click.echo(
            f"{label}: {course.learning[-1]:.1f} illegal predictions in 1,000 after {updates} updates; in "
            f"unbroken streams {np.mean(course.drift):.1f}, largest |c| {course.cell[0]:.1f} after "
            f"{course.positions[0]:,} symbols and {course.cell[-1]:.1f} after {course.positions[-1]:,}"
        )
    draw(courses, picture)
    click.echo(f"picture: {shown(picture)}")


if __name__ == "__main__":
    main()
