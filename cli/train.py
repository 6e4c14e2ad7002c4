"""`gatestream train`: train a reference model."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatestream.cli.extras import TRAINING, needing
from gatestream.cli.numbers import SEED, THREADS, Number
from gatestream.cli.outcome import Interrupted, OutcomeGroup
from gatestream.cli.table_options import table_options

if TYPE_CHECKING:
    from gatestream.cli.rows.options import TableOptions
    from gatestream.model.tasks.task import Task

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(cls=OutcomeGroup)
def command() -> None:
    """Train a reference model.

    A run that was interrupted goes on when the same command is given again; a finished one is taken up as
    it is.
    """


def _common(*, hidden: int, updates: int, learning_rate: float, streams: int, steps: int) -> Callable[..., Any]:
    """The options that all tasks have, with a task's own defaults."""
    options = [
        click.option(
            "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
            help="Where to write the checkpoint (.safetensors); the learning curve goes beside it (.png).",
        ),
        click.option("--name", help="What the model is called where it is served.", show_default="the task's name"),
        click.option("--hidden", type=click.IntRange(1, 8192), default=hidden, help="Width of each layer's state."),
        click.option("--layers", type=click.IntRange(1, 64), default=1, help="Cells, one above another."),
        click.option("--updates", type=click.IntRange(1, 10**8), default=updates, help="The most updates to make."),
        click.option(
            "--learning-rate", type=Number(0, 1000, min_open=True), default=learning_rate,
            help="At the first update; it falls to 0 over --updates.",
        ),
        click.option("--streams", type=click.IntRange(2, 2**16), default=streams, help="Streams trained side by side."),
        click.option(
            "--steps", type=click.IntRange(1, 2**16), default=steps,
            help="Steps that gradients flow back through; the state is carried further.",
        ),
        click.option("--seed", type=SEED, default=0, help="Same seed, same machine: same model."),
        click.option(
            "--threads", type=THREADS, default=1,
            help="CPU threads. More than 1 pays only on an otherwise idle machine.",
        ),
        click.option("--restart", is_flag=True, help="Start over, even if there is a checkpoint to go on from."),
        click.option("--force", is_flag=True, help="Overwrite files that gatestream did not make."),
    ]  # fmt: skip

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_SHOW_DEFAULTS = {"show_default": True}


@command.command(context_settings=_SHOW_DEFAULTS)
@_common(hidden=32, updates=2000, learning_rate=0.01, streams=64, steps=100)
def reber(**options: Any) -> None:
    """Continual embedded Reber grammar.

    An endless stream of symbols, generated; solved when the network ranks every legal successor above every
    illegal one, by a wide margin, over two million fresh symbols.
    """
    from gatestream.model.tasks.reber import Reber

    _run(lambda: Reber(options["streams"], options["steps"], options["seed"]), options, interval=250)


@command.command(context_settings=_SHOW_DEFAULTS)
@click.argument("file", type=_FILE)
@_common(hidden=128, updates=3000, learning_rate=0.005, streams=32, steps=100)
def text(**options: Any) -> None:
    """Next-character model of a UTF-8 FILE.

    The last tenth is held out. Training ends when the held-out figure no longer improves; the best weights
    are kept.
    """
    from gatestream.model.tasks.text import Text

    _run(
        lambda: Text(options["file"], options["streams"], options["steps"], options["seed"]),
        options,
        interval=200,
        patience=5,
    )


@command.command(context_settings=_SHOW_DEFAULTS)
@click.argument("file", type=_FILE)
@click.option("--horizon", type=click.IntRange(1, 2**16), default=8, help="Rows to forecast after each row.")
@table_options(columns="Columns to use, in this order; by default all numeric ones.")
@_common(hidden=64, updates=2000, learning_rate=0.005, streams=32, steps=50)
def series(horizon: int, table: "TableOptions", **options: Any) -> None:
    """Multi-step forecast of the numeric columns of a CSV FILE.

    The last fifth is held out. Training ends when the held-out figure no longer improves; the best weights
    are kept. Normalisation is part of the model: it takes and gives the file's own units.

    How the file is written is detected and printed; what cannot be told, or is no row of numbers, is refused with its
    line, and options say how to take it (docs/training.md, Tables).
    """

    def task() -> "Task":
        from gatestream.cli.rows import RowsError
        from gatestream.cli.rows.table import read_table
        from gatestream.model.tasks.series import Series
        from gatestream.model.tasks.task import DataError

        file: Path = options["file"]
        try:
            read = read_table(file, table)
        except RowsError as error:
            raise click.ClickException(str(error)) from error
        click.echo(f"columns: {', '.join(read.columns)}")
        if read.skipped:
            click.echo(f"not used: {', '.join(read.skipped)}")
        for note in read.notes:
            click.echo(note)
        try:
            return Series(
                read.columns,
                read.values,
                streams=options["streams"],
                steps=options["steps"],
                seed=options["seed"],
                horizon=horizon,
            )
        except DataError as error:
            raise DataError(f"{file}: {error}") from error

    _run(task, options, interval=100, patience=5)


def _run(make: "Callable[[], Task]", options: dict[str, Any], *, interval: int, patience: int | None = None) -> None:
    with needing("training", TRAINING):
        import torch

        from gatestream.model import checkpoint
        from gatestream.model.curve import draw_curve
        from gatestream.model.tasks.task import DataError
        from gatestream.model.training import Settings, Trainer, TrainingError, train

    from gatestream.files import outputs
    from gatestream.files.names import shown

    output: Path = options["output"]
    curve = output.with_suffix(".png")
    if curve == output:
        raise click.ClickException(f"{shown(output)}: the learning curve goes there; call the checkpoint .safetensors")
    outputs.check(
        [outputs.Output("-o", output, "checkpoint"), outputs.Output("the learning curve", curve, "picture")],
        {"FILE": options.get("file")},
        force=options["force"],
    )
    torch.set_num_threads(options["threads"])
    settings = Settings(
        updates=options["updates"],
        learning_rate=options["learning_rate"],
        interval=interval,
        patience=patience,
        seed=options["seed"],
    )
    trainer = None
    try:
        saved = checkpoint.load(output) if outputs.exists(output, "checkpoint") and not options["restart"] else None
        task = make()
        config = task.config(options["name"] or task.identity["task"], options["hidden"], options["layers"])
        trainer = Trainer(task, config, settings)
        if saved is not None:
            trainer.restore(saved)
            standing = "finished already" if trainer.finished else "going on"
            click.echo(f"{shown(output)}: {standing}, {len(trainer.losses)} updates made")
        if not trainer.finished:
            train(trainer, output)
        draw_curve(trainer, curve)
    except (DataError, TrainingError, checkpoint.CheckpointError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        made = trainer.evaluations[-1][0] if trainer and trainer.evaluations else 0
        raise Interrupted(f"interrupted; the same command goes on after update {made}") from None
    click.echo(f"{trainer.best[2]}\ncheckpoint: {shown(output)}\nlearning curve: {shown(curve)}")
    if trainer.solved is False:
        raise click.ClickException(
            f"not solved after {len(trainer.losses)} updates; start over with another --seed or more --updates"
        )
