"""`gatestream export`."""

import re
import sys
from pathlib import Path
from typing import Any, Final, Literal, get_args

import click

from gatestream.cli.called import Called
from gatestream.cli.extras import EXPORTING, needing
from gatestream.cli.numbers import Number
from gatestream.cli.outcome import Outcome
from gatestream.cli.values import Value

Precision = Literal["float32", "float16", "int8"]

_FACTORY: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@click.command("export", cls=Outcome)
@click.argument("source", metavar="CHECKPOINT|MODULE:FACTORY")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where the artifact goes.")
@click.option(
    "--form",
    type=click.Choice(["gates", "fused"]),
    help="gates: the equations, with the gates' activations as outputs; what a checkpoint becomes if nothing is said. "
    "fused: the ONNX LSTM operator. A module's layers become operators, and its cells equations, if "
    "nothing is said.",
)
@click.option(
    "--weights",
    metavar="FORMAT|FILE",
    help="Of a checkpoint, how they are stored: float32; float16: half the file, the same step; int8, form gates only: "
    "a third of the file, a faster step from about hidden 512 on. The latter two say how far they are from float32. "
    "Of a MODULE:FACTORY, the file that has them: safetensors, or what torch.save wrote of a state dict or checkpoint.",
)
@click.option(
    "--max-error",
    type=Number(0, 1e9),
    help="With float16 or int8: fail where an output is further than this from the float32 network's over 1,024 "
    "carried steps (in normalised units where the model denormalises).",
)
@click.option("--prefix", default="", help="What stands before the module's names in the file of --weights.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME:TYPE[SHAPE]",
    help="What the module's forward takes each step: x:float32[40] is [batch, time, 40], x:float32[time,batch,40] "
    "another layout, x:float32[batch,40] one step a call, token:int64<256[] ids below 256. Without it, as the "
    "module's method example_inputs(batch, time) shows.",
)
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="NAME:TYPE[SHAPE]",
    help="What forward takes behind its inputs and gives back behind its outputs: h:float32[64], "
    "h:float32[2,batch,64], state.0:float32[64] of a tuple. Without it, as the method initial_state(batch) shows. "
    "Recurrent layers that start anew at each call need not be said.",
)
@click.option(
    "--constant",
    "constants",
    type=Value("NAME[:TYPE[SHAPE]][=VALUE]", alone=True),
    multiple=True,
    help="What forward takes beside these. speaker:float32[64]: every session is given it once, when it opens. "
    "rate=16000, mask=mask.npy: it is passed for good as it is. speaker:float32[64]=speaker.npy: the same for good, "
    "each row its own.",
)
@click.option("--stateless", is_flag=True, help="Take a module that carries nothing from one step to the next.")
@click.option(
    "--length", default="", metavar="NAME", help="The parameter of forward that takes each row's number of steps."
)
@click.option("--output-name", "names", multiple=True, help="What an output of the module is called; one for each.")
@click.option("--name", type=Called(), help="What the server calls a module; without it, the name of the file at -o.")
@click.option(
    "--model-version", type=Called(), default="1", show_default=True, help="What the server calls this version."
)
@click.option("--report", type=click.Path(path_type=Path), help="Write what was verified there, as JSON.")
@click.option("--force", is_flag=True, help="Overwrite files that gatestream did not make.")
def command(
    source: str,
    output: Path,
    form: Literal["gates", "fused"] | None,
    weights: str | None,
    max_error: float | None,
    model_version: str,
    report: Path | None,
    force: bool,
    **of_module: Any,
) -> None:
    """Turn CHECKPOINT, or your own module of torch, into one ONNX file that describes itself, and prove it the same.

    The proof: ONNX's checker; the gates found by data flow; every output, state and gate compared with torch and with
    NumPy over a thousand carried steps; rows together, and rows of unlike length, compared with the same rows alone.
    Exits with 1, and one line that names the first tensor, step and size that differ, when any of it fails; then there
    is no file at the output, or the one that was there before.

    Weights in fewer bits are another network: the file is proved to be the network of the rounded weights, and how far
    that is from the checkpoint's, what the file weighs and what a step costs is measured and printed.

    MODULE:FACTORY is a module of Python and a class or function in it that makes an nn.Module when it is called:
    `gatestream export mymodel:build --weights mine.pt --input x:float32[40] -o mine.onnx`. What forward takes and gives
    back becomes the state of a session, and so do the states of every LSTM, GRU and RNN in it that starts anew at each
    call. The file is compared with the module itself, in one piece, in chunks and in single steps.
    """
    if _FACTORY.fullmatch(source) and not Path(source).exists():
        if max_error is not None:
            raise click.UsageError("--max-error is for a checkpoint: a module is proved as it is")
        from gatestream.cli.export_module import export_module

        # As `python -m` finds it.
        sys.path.insert(0, "")
        export_module(
            source,
            output,
            weights,
            model_version,
            report,
            form=form,
            force=force,
            **of_module | {"name": of_module["name"] or ""},
        )
        return
    if wrong := next((name for name, value in of_module.items() if value), None):
        flag = {"inputs": "input", "states": "state", "names": "output-name", "constants": "constant"}.get(wrong, wrong)
        raise click.UsageError(f"--{flag} is for a MODULE:FACTORY, and '{source}' is not written so")
    if weights is not None and weights not in get_args(Precision):
        known = ", ".join(f"'{each}'" for each in get_args(Precision))
        raise click.BadOptionUsage("weights", f"Invalid value for '--weights': '{weights}' is not one of {known}.")
    _export_checkpoint(
        Path(source), output, form or "gates", weights or "float32", max_error, model_version, report, force=force
    )


def _export_checkpoint(
    checkpoint: Path,
    output: Path,
    form: Literal["gates", "fused"],
    weights: Any,
    max_error: float | None,
    model_version: str,
    report: Path | None,
    *,
    force: bool,
) -> None:
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
