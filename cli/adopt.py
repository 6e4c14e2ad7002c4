"""`gatestream adopt`."""

from pathlib import Path
from typing import Any

import click

from gatestream.cli.called import Called
from gatestream.cli.extras import ADOPTING, needing
from gatestream.cli.outcome import Outcome
from gatestream.cli.values import Value, split


def _whole(text: str, what: str, metavar: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise click.BadParameter(f"{what!r}; expected {metavar} with a whole number")
    return int(text)


class _Pairs(click.ParamType):  # type: ignore[type-arg]  # generic only in newer ones than the oldest
    """Several values of a flag, as a mapping."""

    def __init__(self, separator: str, metavar: str, *, none: bool = False) -> None:
        self.name = metavar
        self._separator, self._none = separator, none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int | None]:
        if isinstance(value, tuple):
            return value
        name, text = split(value, self._separator, self.name)
        if self._none and text == "none":
            return name, None
        return name, _whole(text, value, self.name)


class _State(click.ParamType):  # type: ignore[type-arg]  # generic only in newer ones than the oldest
    name = "IN=OUT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        return value if isinstance(value, tuple) else split(value, "=", self.name)


@click.command("adopt", cls=Outcome)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where the artifact goes.")
@click.option(
    "--state",
    "states",
    type=_State(),
    multiple=True,
    help="Input IN is a state, and output OUT what becomes of it. Once given, no others are looked for by running.",
)
@click.option(
    "--constant",
    "constants",
    type=Value("NAME[=VALUE]", alone=True),
    multiple=True,
    help="Input NAME has this value for good: numbers with commas between them, true, false, or a .npy file. Without "
    "a value: every session sets it when it opens.",
)
@click.option(
    "--time",
    type=_Pairs(":", "INPUT:AXIS|none", none=True),
    multiple=True,
    help="Which axis of an input is time, the first being 0; none: it has none, and every step has its own.",
)
@click.option("--batch", type=_Pairs(":", "INPUT:AXIS"), multiple=True, help="Which axis is the sessions'.")
@click.option(
    "--window",
    "windows",
    type=_Pairs(":", "INPUT:SAMPLES"),
    multiple=True,
    help="A step is a window of so many samples, where the file leaves open how many.",
)
@click.option(
    "--context",
    type=_Pairs(":", "INPUT:SAMPLES"),
    multiple=True,
    help="The file expects the last samples of the window before in front of each window, along the last axis; the "
    "artifact keeps them itself.",
)
@click.option(
    "--initial",
    type=Value("STATE=VALUE", alone=False),
    multiple=True,
    help="What a new session's state is: a number, or a .npy file of the state's shape with 1 for the sessions. "
    "Otherwise what the file starts from, or zeros.",
)
@click.option(
    "--form",
    type=click.Choice(["gates", "fused"]),
    help="gates: every LSTM and GRU as its equations, with the gates' activations as outputs. fused: as ONNX "
    "operators. Otherwise as the file has them.",
)
@click.option("--name", type=Called(), help="What the model is called; else as the file.")
@click.option(
    "--model-version", type=Called(), default="1", show_default=True, help="What the server calls this version."
)
@click.option("--stateless", is_flag=True, help="Take a file that carries nothing from one step to the next.")
@click.option("--report", type=click.Path(path_type=Path), help="Write what was verified there, as JSON.")
@click.option("--force", is_flag=True, help="Overwrite files that gatestream did not make.")
def command(
    model: Path, output: Path, report: Path | None, force: bool, name: str | None, model_version: str, **flags: Any
) -> None:
    """Turn MODEL, any recurrent ONNX file, into an artifact that can be served, and prove that it is the same model.

    Its states, the sessions' axis and the time axis of every tensor are found by data flow and by running it, and
    printed with how they were found. What cannot be found out is an error that names the flag; names are no evidence.
    The proof: carried steps, chunks and rows together against MODEL itself in onnxruntime, run by its own conventions.
    Exits with 1, and one line, when any of it fails; then there is no file at the output, or the one that was there
    before.
    """
    from gatestream.files import outputs, writing
    from gatestream.files.names import shown

    written = [outputs.Output("-o", output, "artifact")]
    if report is not None:
        written.append(outputs.Output("--report", report, "report", through=True))
    outputs.check(written, {"MODEL": model}, force=force)
    with needing("adopting", ADOPTING):
        from gatestream.export.adopting import table
        from gatestream.export.adopting.adopt import adopt
        from gatestream.export.adopting.options import Options
        from gatestream.export.errors import ArtifactError
        from gatestream.export.proof.report import VerificationError

    named: dict[str, Any] = {flag: dict(value) if isinstance(value, tuple) else value for flag, value in flags.items()}
    options = Options(**named, name=name or "", version=model_version)
    try:
        adopted = adopt(model, output, options)
        if report is not None:
            writing.deliver(report, adopted.report.to_json().encode())
    except VerificationError as error:
        if report is not None:
            writing.deliver(report, error.report.to_json().encode())
        raise click.ClickException(f"{model}: {error}") from error
    except ArtifactError as error:
        text = str(error)
        raise click.ClickException(text if text.startswith(str(model)) else f"{model}: {text}") from error
    for line in table.lines(adopted.spec, adopted.report):
        click.echo(line)
    given = ", ".join(f"'{shown(state.input)}'" for state in table.unproved(adopted.spec))
    click.echo(f"{shown(output)} is {shown(model)}: proved" + (f", but for what becomes of {given}" if given else ""))
