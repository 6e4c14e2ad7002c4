"""`gatestream export`."""

from pathlib import Path
from typing import Any, cast

import click


@click.command("export")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where to write the artifact.")
@click.option(
    "--form",
    type=click.Choice(["gates", "fused"]),
    default="gates",
    show_default=True,
    help="gates: the equations, gate activations as outputs. fused: the ONNX LSTM operator.",
)
@click.option("--model-version", default="1", show_default=True, help="What the server calls this version.")
def command(checkpoint: Path, output: Path, form: str, model_version: str) -> None:
    """Turn CHECKPOINT into an ONNX file that describes itself."""
    from gatestream.export.exporter import export
    from gatestream.model.checkpoint import CheckpointError, load

    try:
        export(load(checkpoint).network, output, cast(Any, form), version=model_version)
    except (CheckpointError, OSError) as error:
        raise click.ClickException(str(error)) from error
