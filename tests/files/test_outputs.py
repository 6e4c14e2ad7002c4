"""What a command may write over, and what it may not."""

import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from onnx import TensorProto, helper

from gatestream.files.marks import MARK, Kind, is_made_here, picture_metadata
from gatestream.files.outputs import Output, OutputError, check
from tests.support.artifacts import accumulator

HEADER = b'{"__metadata__":{"gatestream.checkpoint":"1"}}'


def picture(path: Path, *, here: bool) -> Path:
    figure = Figure()
    figure.add_subplot().plot(np.arange(3))
    figure.savefig(path, metadata=picture_metadata(path.suffix) if here else None)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files that gatestream made, and some that it did not."""
    folder = tmp_path_factory.mktemp("made")
    foreign = helper.make_model(
        helper.make_graph([], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    )
    foreign.metadata_props.add(key="author", value="gatestream.spec")
    files = {
        "artifact": accumulator(folder / "artifact").read_bytes(),
        "checkpoint": len(HEADER).to_bytes(8, "little") + HEADER,
        "picture": picture(folder / "here.png", here=True).read_bytes(),
        "drawing": picture(folder / "here.svg", here=True).read_bytes(),
        "report": b'{\n  "passed": true,\n  "model": "m",\n  "gatestream_version": "0.1.0"\n}\n',
        "log": f"# {MARK}\n2026 serving\n".encode(),
        "port": b"50051\n",
        "foreign ONNX": foreign.SerializeToString(),
        "foreign safetensors": (2).to_bytes(8, "little") + b"{}",
        "foreign PNG": picture(folder / "there.png", here=False).read_bytes(),
        "foreign SVG": picture(folder / "there.svg", here=False).read_bytes(),
        "foreign JSON": b'{"passed": true}',
        "huge header": (1 << 60).to_bytes(8, "little") + HEADER,
        "huge field": b"\x3a\xff\xff\xff\xff\x07" + b"\x72\x11\x0a\x0fgatestream.spec\x12",
        "deep header": (100_000).to_bytes(8, "little") + b"[" * 100_000,
        "zeros": bytes(4096),
        "text": b"precious",
        "tar of an artifact": bytes(512) + accumulator(folder / "artifact").read_bytes(),
        "a port and more": b"50051 is the port",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in files}


KINDS: tuple[Kind, ...] = ("artifact", "checkpoint", "picture", "report", "log", "port")


def test_a_file_says_itself_what_it_is_and_nothing_else_passes_for_it(made: dict[str, Path]) -> None:
    found = {(name, kind) for name, path in made.items() for kind in KINDS if is_made_here(path, kind)}
    assert found == {(kind, kind) for kind in KINDS} | {("drawing", "picture")}


def test_each_kind_overwrites_its_own_and_is_kept_from_the_others(made: dict[str, Path]) -> None:
    for name, path in made.items():
        for kind in KINDS:
            output = Output("-o", path, kind)
            if name == kind or (name, kind) == ("drawing", "picture"):
                check([output], {})
            else:
                with pytest.raises(OutputError, match=r"^-o .* is there and is not .*overwrite it with --force$"):
                    check([output], {})
            check([output], {}, force=True)


def test_an_empty_file_and_a_new_one_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    check([Output("-o", tmp_path / "empty", "artifact"), Output("--svg", tmp_path / "new" / "x.svg", "picture")], {})


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, force: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "pipe", "is not a regular file")):
        with pytest.raises(OutputError, match=message):
            check([Output("-o", path, "artifact")], {}, force=force)
    with pytest.raises(OSError, match="symbolic links"):
        check([Output("-o", tmp_path / "loop", "artifact")], {}, force=force)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is not a folder"):
        check([Output("-o", tmp_path / "file" / "x" / "y", "artifact")], {}, force=force)


def test_what_is_written_through_may_be_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    check([Output("--svg", tmp_path / "pipe", "picture", through=True)], {})


@pytest.mark.parametrize("force", [False, True])
def test_an_output_is_no_input_and_no_other_output_by_any_name(tmp_path: Path, force: bool) -> None:
    (tmp_path / "input").write_text("data")
    (tmp_path / "symbolic").symlink_to("input")
    (tmp_path / "hard").hardlink_to(tmp_path / "input")
    (tmp_path / "up").mkdir()
    for name in ("input", "symbolic", "hard", "up/../input"):
        with pytest.raises(OutputError, match=r"^-o .* is the same file as FILE$"):
            check([Output("-o", tmp_path / name, "artifact")], {"FILE": tmp_path / "input"}, force=force)
    (tmp_path / "dangling").symlink_to("new")
    (tmp_path / "folder").symlink_to(".")
    for name in ("new", "dangling", "up/../new", "folder/new"):
        both = [Output("-o", tmp_path / "new", "artifact"), Output("--report", tmp_path / name, "report")]
        with pytest.raises(OutputError, match=r"^--report .* is the same file as -o$"):
            check(both, {}, force=force)


def test_a_write_protected_file_stays(made: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(made["artifact"].read_bytes())
    path.chmod(0o444)
    with pytest.raises(OutputError, match="is write-protected"):
        check([Output("-o", path, "artifact")], {})


def test_names_are_shown_as_a_terminal_can_show_them(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines"
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"two\\nlines is there"):
        check([Output("-o", path, "artifact")], {})
