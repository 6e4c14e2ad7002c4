"""`gatestream export`."""

from pathlib import Path
from typing import Literal

import click

from gatestream.cli.extras import EXPORTING, needing
from gatestream.cli.numbers import Number
from gatestream.cli.outcome import Outcome


@click.command("export", cls=Outcome)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where the artifact goes.")
@click.option(
    "--form",
    type=click.Choice(["gates", "fused"]),
    default="gates",
    show_default=True,
    help="gates: the equations, with the gates' activations as outputs. fused: the ONNX LSTM operator.",
)
@click.option(
    "--weights",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="float16: half the file, the same step. int8, form gates only: a third of the file, a faster step from about "
    "hidden 512 on. Both say how far they are from float32.",
)
@click.option(
    "--max-error",
    type=Number(0, 1e9),
    help="With float16 or int8: fail where an output is further than this from the float32 network's over 1,024 "
    "carried steps (in normalised units where the model denormalises).",
)
@click.option("--model-version", default="1", show_default=True, help="What the server calls this version.")
@click.option("--report", type=click.Path(path_type=Path), help="Write what was verified there, as JSON.")
@click.option("--force", is_flag=True, help="Overwrite files that gatestream did not make.")
def command(
    checkpoint: Path,
    output: Path,
    form: Literal["gates", "fused"],
    weights: Literal["float32", "float16", "int8"],
    max_error: float | None,
    model_version: str,
    report: Path | None,
    force: bool,
) -> None:
    """Turn CHECKPOINT into one ONNX file that describes itself, and prove that it is the same network.

    The proof: ONNX's checker; the gates found by data flow; every output, state and gate compared with torch and with
    NumPy over a thousand carried steps; rows together, and rows of unlike length, compared with the same rows alone.
    Exits with 1, and one line that names the first tensor, step and size that differ, when any of it fails; then there
    is no file at the output, or the one that was there before.

    Weights in fewer bits are another network: the file is proved to be the network of the rounded weights, and how far
    that is from the checkpoint's, what the file weighs and what a step costs is measured and printed.
    """
    if max_error is not None and weights == "float32":
        raise click.UsageError(
            "--max-error is for --weights float16 or int8: float32 is proved to the last bits anyway"
        )
    from gatestream.files import outputs, writing
    from gatestream.files.names import shown

    written = [outputs.Output("-o", output, "artifact")]
    if report is not None:
        written.append(outputs.Output("--report", report, "report", through=True))
    outputs.check(written, {"CHECKPOINT": checkpoint}, force=force)
    with needing("exporting", EXPORTING):
        from gatestream.export.errors import ArtifactError
        from gatestream.export.exporter import export
        from gatestream.export.proof.report import VerificationError
        from gatestream.model.checkpoint import CheckpointError, load

    try:
        verified = export(
            load(checkpoint).network, output, form, version=model_version, weights=weights, max_error=max_error
        )
        if report is not None:
            writing.deliver(report, verified.to_json().encode())
    except VerificationError as error:
        if report is not None:
            writing.deliver(report, error.report.to_json().encode())
        stored = "" if weights == "float32" else f", weights {weights}"
        raise click.ClickException(f"{checkpoint}, form {form}{stored}: {error}") from error
    except (ArtifactError, CheckpointError) as error:
        raise click.ClickException(str(error)) from error
    for check in verified.checks:
        click.echo(f"{check.name:<24}{check.detail}")
    if verified.accuracy is None:
        click.echo(f"{shown(output)} is {shown(checkpoint)}, form {form}: proved")
        return
    click.echo("\n".join(verified.accuracy.lines()))
    click.echo(f"{shown(output)} is {shown(checkpoint)}, form {form}, its weights rounded to {weights}: proved")
