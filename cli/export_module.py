"""`gatestream export package.module:factory`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from gatestream.cli.extras import EXPORTING, needing
from gatestream.files import outputs, writing
from gatestream.files.names import shown


def export_module(
    source: str,
    output: Path,
    weights: str | None,
    version: str,
    report: Path | None,
    *,
    prefix: str,
    inputs: Sequence[str],
    states: Sequence[str],
    length: str,
    constants: Sequence[tuple[str, Any]],
    names: Sequence[str],
    name: str,
    form: Literal["gates", "fused"] | None,
    stateless: bool,
    force: bool,
) -> None:
    """Make a module of the user's, load its weights, and write it as an artifact that is proved to be the same.

    Args:
        source: "package.module:factory".
        output: where the artifact goes.
        weights: the file that has them; None: those that the factory made.
        version: what the server calls this version.
        report: write what was verified there.
        prefix: of the names in the file of weights.
        inputs: what forward takes each step.
        states: what it takes and gives back.
        length: its parameter for the number of steps of each row.
        constants: what else it takes, with the value that it always has, or None where a session is given it once.
        names: of its outputs.
        name: of the model; empty: that of the file.
        form: of its LSTM and GRU layers; None: as they come.
        stateless: take one that carries nothing.
        force: overwrite files that gatestream did not make.

    Raises:
        ClickException: it could not be made, or is not the same.
    """
    written = [outputs.Output("-o", output, "artifact")]
    if report is not None:
        written.append(outputs.Output("--report", report, "report", through=True))
    outputs.check(written, {"--weights": Path(weights) if weights else None}, force=force)
    with needing("exporting", EXPORTING):
        from gatestream.export.errors import ArtifactError
        from gatestream.export.proof.report import Check, Report, VerificationError
        from gatestream.export.sources import factory, module
        from gatestream.export.sources import weights as loading
        from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

    name = name or output.name.partition(".")[0]
    try:
        made = factory.make(source)
        if weights is not None:
            loaded = loading.load(made, Path(weights), prefix=prefix)
            click.echo(f"{'weights':<24}{shown(Path(weights))}: {loaded}")
        exported = module.export_module(
            made,
            output,
            inputs=inputs,
            states=states,
            outputs=names,
            length=length,
            constants=dict(constants),
            form=form,
            stateless=stateless,
            name=name,
            version=version,
            source=source,
        )
    except VerificationError as error:
        if report is not None:
            writing.deliver(report, error.report.to_json().encode())
        raise click.ClickException(f"{source}: {error}") from error
    except ArtifactError as error:
        if report is not None:
            failed = Report.of(pb.ModelSpec(name=name, version=version), [Check("module", False, str(error))])
            writing.deliver(report, failed.to_json().encode())
        raise click.ClickException(str(error) if str(error).startswith(source) else f"{source}: {error}") from error
    if report is not None:
        writing.deliver(report, exported.report.to_json().encode())
    for tensor in exported.spec.source.tensors:
        shape = ", ".join(
            "batch" if k == tensor.batch_axis else "time" if k == tensor.time_axis else str(size)
            for k, size in enumerate(tensor.shape)
        )
        what = f"{tensor.becomes} [{shape}]" if tensor.becomes else tensor.name
        click.echo(f"{tensor.role:<24}{what}, {tensor.found}")
    for line in exported.spec.source.rewritten:
        click.echo(f"{'rewritten':<24}{line}")
    for check in exported.report.checks:
        click.echo(f"{check.name:<24}{check.detail}")
    click.echo(f"{shown(output)} is {source}: proved")
