"""`gatestream inspect`."""

import json
from pathlib import Path

import click

from gatestream.cli.extras import ADOPTING, SERVING, needing
from gatestream.cli.outcome import Outcome


@click.command("inspect", cls=Outcome)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--svg", type=click.Path(path_type=Path), help="Draw the cell there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
@click.option("--force", is_flag=True, help="Overwrite a file that gatestream did not make.")
def command(artifact: Path, svg: Path | None, as_json: bool, force: bool) -> None:
    """Say what the ONNX file ARTIFACT is, and check that it is what it says.

    Its gates, those of LSTM and GRU cells, are found by data flow, not by name, in anybody's file; its weights are
    hashed; its numbers are compared with those that its own weights give in NumPy, or, where it was adopted or is a
    module of its own, with its own in other runs. Exits with 1, and one line of what is wrong, when any of it does not
    hold.
    """
    with needing("inspecting", SERVING):
        from gatestream.export.drawing import listing, text
        from gatestream.export.drawing.draw import draw
        from gatestream.export.drawing.findings import Findings, look
        from gatestream.export.errors import ArtifactError
    from gatestream.files import outputs, writing
    from gatestream.protos.spec import SpecError

    if svg is not None:
        outputs.check([outputs.Output("--svg", svg, "picture", through=True)], {"ARTIFACT": artifact}, force=force)
    try:
        with needing("inspecting a file that is no artifact", ADOPTING):
            found = look(artifact)
    except (ArtifactError, SpecError) as error:
        raise click.ClickException(str(error)) from error
    if svg is not None:
        writing.deliver(svg, draw(found).encode())
    if isinstance(found, Findings):
        click.echo(json.dumps(listing.as_json(found), indent=2) if as_json else listing.as_text(found), nl=as_json)
    else:
        click.echo(json.dumps(text.as_json(found), indent=2) if as_json else text.as_text(found), nl=as_json)
