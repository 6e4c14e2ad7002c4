"""Every command, every option and argument that names a file, every hostile file: one line, a known end, no harm."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import pytest

from gatestream.cli.main import main
from gatestream.cli.outcome import FAULT, STATUSES
from tests.support.artifacts import accumulator
from tests.support.hostile_files import NOT_YET, TEXTS, digests, hostile_files
from tests.support.process import ServerProcess, serving
from tests.support.zygote import Ended, Zygote

KNOWN = {int(number) for number in re.findall(r"(\d+):", STATUSES)} - {FAULT}

# What goes beside an option so that its file is looked at, and nothing more is done than that. A server that has read
# everything does not get to serve: the address is none of this machine's.
BESIDE: dict[str, list[str]] = {
    "train reber": ["--updates", "1", "--hidden", "2"],
    "train text": ["--updates", "1", "--hidden", "2"],
    "train series": ["--updates", "1", "--hidden", "2"],
    "export": [],
    "adopt": [],
    "inspect": [],
    "serve": ["--listen", "192.0.2.1:9", "--threads", "1"],
    "models": ["127.0.0.1:9", "--timeout", "0.2"],
    "sessions": ["valkey://127.0.0.1:9", "export", "call-17", "--model", "vad"],
    "health": ["127.0.0.1:9", "--timeout", "0.2"],
    "stream": ["--timeout", "20"],
}
TOGETHER = {"tls_cert": ["tls_key"], "tls_key": ["tls_cert"], "tls_client_ca": ["tls_cert", "tls_key"]}

# The short form: one of each kind. `make test-hostile` runs the rest.
SHORT = {
    "random", "empty", "half.safetensors", "wide.safetensors", "long-prefix.onnx", "external.onnx", "deep.json",
    "header.csv", "esc\x1b[31m\nlines", "loop", "folder", "pipe", "below-a-file",
}  # fmt: skip


def commands() -> Iterator[tuple[str, click.Command]]:
    """All that the tree has, by the words that call them."""
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {each}", sub) for each, sub in command.commands.items())
        else:
            yield name, command


COMMANDS = dict(commands())
PATHS = [
    pytest.param(words, parameter, id=f"{words} {parameter.name}")
    for words, command in COMMANDS.items()
    for parameter in command.params
    if isinstance(parameter.type, click.Path)
]


def test_every_command_that_takes_a_file_is_known_here() -> None:
    assert len(PATHS) >= 22
    assert {each.values[0] for each in PATHS} == set(BESIDE)


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with Zygote(tmp_path_factory.mktemp("cwd")) as zygote:
        yield zygote


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(accumulator(tmp_path_factory.mktemp("served") / "model.onnx")) as server:
        yield server


@pytest.mark.parametrize(("words", "parameter"), PATHS)
def test_a_hostile_file_is_one_line_and_stays_as_it_was(
    zygote: Zygote, server: ServerProcess, tmp_path: Path, words: str, parameter: click.Parameter
) -> None:
    feed(zygote, server, tmp_path, words, parameter, lambda name: name in SHORT)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "parameter"), PATHS)
def test_so_is_every_other(
    zygote: Zygote, server: ServerProcess, tmp_path: Path, words: str, parameter: click.Parameter
) -> None:
    feed(zygote, server, tmp_path, words, parameter, lambda name: name not in SHORT)


def feed(
    zygote: Zygote,
    server: ServerProcess,
    tmp_path: Path,
    words: str,
    parameter: click.Parameter,
    chosen: Callable[[str], bool],
) -> None:
    hostile, other = tmp_path / "hostile", tmp_path / "other"
    for folder in (hostile, other):
        folder.mkdir()
    paths = hostile_files(hostile)
    # At the places that a command must have filled besides: what ends it before it does any work.
    (other / "table.csv").write_text("a,b\n")
    (other / "checkpoint").write_bytes(b"none")
    beside = {
        "file": other / "table.csv",
        "checkpoint": other / "checkpoint",
        "model": other / "checkpoint",
        "artifact": accumulator(other / "model.onnx"),
        "artifacts": other / "model.onnx",
        "output": other / "new.safetensors",
    }
    before = digests(tmp_path)
    for path in filter(lambda path: chosen(path.name), paths):
        if path.name == "pipe" and parameter.name in ("file", "config"):
            continue  # It waits for whoever writes to it, as every program does.
        if words == "train reber" and path.name in NOT_YET | {"empty"}:
            continue  # It would train.
        if parameter.name == "port_file" and path.name in NOT_YET:
            continue  # It is made, empty until the server serves.
        if words == "train text" and parameter.name == "file" and path.name in TEXTS:
            continue  # It would, on a text as good as any.
        address = [server.address] if words == "stream" else []
        called = [*words.split(), *BESIDE[words], *address, *places(words, parameter, path, beside)]
        check(zygote.run(called), called)
        assert digests(tmp_path) == before, called


def places(words: str, parameter: click.Parameter, path: Path, beside: dict[str, Path]) -> list[str]:
    """The path at its place, and others at those that must be filled too; arguments last."""
    options, arguments = [], []
    for each in COMMANDS[words].params:
        if not isinstance(each.type, click.Path):
            continue
        if each is parameter or each.name in TOGETHER.get(str(parameter.name), []):
            value = path
        elif each.required or each.name == "artifacts":
            value = beside[str(each.name)]
        else:
            continue
        if isinstance(each, click.Option):
            options += [each.opts[-1], str(value)]
        else:
            arguments.append(str(value))
    return options + arguments


def check(ended: Ended, called: Sequence[str]) -> None:
    said = f"{called}\n{ended}"
    assert ended.status in KNOWN, said
    assert "Traceback" not in ended.out + ended.err, said
    errors = [line for line in ended.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == (ended.status != 0), said
    assert ended.status == 0 or errors == ended.err.splitlines()[-1:], said
    assert all(line.isprintable() and len(line) < 1100 for line in ended.err.split("\n")), said
