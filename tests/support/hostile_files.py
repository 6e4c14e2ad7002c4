"""Files that no command should be handed."""

import hashlib
import json
import os
import struct
from pathlib import Path

import onnx

from tests.support.artifacts import accumulator

CHECKPOINT = Path(__file__).parents[1] / "export" / "fixtures" / "small.safetensors"
LONGEST_NAME = 300

NOT_YET = frozenset({"missing", "dangling"})
"""Names of what is not there and could be written; an empty file can be written too."""
TEXTS = frozenset({"zeros", "deep.json", "deep.jsonl", "digits.jsonl", "deep.toml"})
"""Names of what is long enough, and UTF-8."""


def hostile_files(folder: Path) -> list[Path]:
    """Fill a folder with them; their paths, and some at which nothing can stand."""
    checkpoint = CHECKPOINT.read_bytes()
    artifact = accumulator(folder / "good.onnx").read_bytes()
    model = onnx.load_from_string(artifact)
    (folder / "good.json").write_bytes(artifact)
    (folder / "good.textproto").write_bytes(artifact)
    onnx.save_model(model, folder / "external.onnx", save_as_external_data=True, location="data.bin", size_threshold=0)
    (folder / "data.bin").unlink()
    del model.metadata_props[:]
    onnx.save_model(model, folder / "foreign.onnx")
    files: dict[str | bytes, bytes] = {
        "empty": b"",
        "zeros": bytes(100_000),
        "random": hashlib.shake_128(b"random").digest(100_000),
        "text.txt": b"neither this nor that\n",
        "half.safetensors": checkpoint[: len(checkpoint) // 2],
        "huge-header.safetensors": struct.pack("<Q", 1 << 60) + b"{}",
        "deep-header.safetensors": struct.pack("<Q", 100_000) + b"[" * 100_000,
        "foreign.safetensors": struct.pack("<Q", 2) + b"{}",
        "wide.safetensors": _checkpoint(
            '{"name":"m","task":"t","encoder":"none","inputs":1,"hidden":1000000,"outputs":1}'
        ),
        "deep.safetensors": _checkpoint("[" * 100_000),
        "half.onnx": artifact[: len(artifact) // 2],
        "long-prefix.onnx": b"\x3a\xff\xff\xff\xff\x07",
        "nested.onnx": b"\x3a\x7e" * 64,
        "no-model.json": b'{"passed": true}',
        "deep.json": b"[" * 100_000,
        "deep.jsonl": b"[" * 100_000 + b"\n",
        "digits.jsonl": b"[" + b"9" * 5000 + b",1]\n",
        "no-model.textproto": b"ir_version: 8",
        "header.csv": b"a,b\n",
        "quote.csv": b'a,b\n1,"2\n3,4\n',
        "latin.csv": b"temp\xe9rature\n1\n2\n",
        "settings.toml": b"sessions = [[[[1]]]]\nport_file = 7\n",
        "deep.toml": b"a = " + b"[" * 5000,
        "key.pem": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"bytes-\xff\xfe": b"x",
        "esc\x1b[31m\nlines": b"x",
    }
    for name, data in files.items():
        with open(os.path.join(os.fsencode(folder), os.fsencode(name)), "wb") as file:  # noqa: PTH118, PTH123
            file.write(data)
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    nothing = [folder / "text.txt" / "below-a-file", folder / ("n" * LONGEST_NAME), folder / "missing"]
    return [*sorted(folder.iterdir()), *nothing]


def digests(folder: Path) -> dict[str, str]:
    """What stands in a folder, by path: a digest of a file, the target of a link, or the kind of anything else."""
    return {str(path): _digest(path) for path in folder.rglob("*")}


def _digest(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else f"{path.stat().st_mode:o}"


def _checkpoint(config: str) -> bytes:
    """A checkpoint without any tensor."""
    metadata = {"gatestream.checkpoint": "1", "gatestream.config": config, "gatestream.training": "{}"}
    header = json.dumps({"__metadata__": metadata}).encode()
    return struct.pack("<Q", len(header)) + header
