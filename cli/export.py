"""`gatestream export`."""

from pathlib import Path
from typing import Literal

import click


@click.command("export")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where the artifact goes.")
@click.option(
    "--form",
    type=click.Choice(["gates", "fused"]),
    default="gates",
    show_default=True,
    help="gates: the equations, with the gates' activations as outputs. fused: the ONNX LSTM operator.",
)
@click.option("--model-version", default="1", show_default=True, help="What the server calls this version.")
@click.option("--report", type=click.Path(path_type=Path), help="Write what was verified there, as JSON.")
def command(
    checkpoint: Path, output: Path, form: Literal["gates", "fused"], model_version: str, report: Path | None
) -> None:
    """Turn CHECKPOINT into one ONNX file that describes itself, and prove that it is the same network.

    The proof: ONNX's checker; the gates found by data flow; every output, state and gate compared with torch and with
    NumPy over a thousand carried steps; rows together, and rows of unlike length, compared with the same rows alone.
    Exits with 1, and one line that names the first tensor, step and size that differ, when any of it fails; then there
    is no file at the output, or the one that was there before.
    """
    try:
        from gatestream.export.errors import ArtifactError
        from gatestream.export.exporter import export
        from gatestream.export.report import VerificationError
        from gatestream.model.checkpoint import CheckpointError, load
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"exporting needs {error.name}, which is not installed: pip install 'gatestream[cpu,train]'"
        ) from error

    try:
        verified = export(load(checkpoint).network, output, form, version=model_version)
        if report is not None:
            report.write_text(verified.to_json())
    except VerificationError as error:
        if report is not None:
            report.write_text(error.report.to_json())
        raise click.ClickException(f"{checkpoint}, form {form}: {error}") from error
    except (ArtifactError, CheckpointError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for check in verified.checks:
        click.echo(f"{check.name:<24}{check.detail}")
    click.echo(f"{output} is {checkpoint}, form {form}: proved")
