"""Weights that stand beside a file: taken into it, from its own folder and from nowhere else."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import onnx

from gatestream.export.errors import SourceError
from gatestream.protos.bounds import LARGEST_FILE


def take_in(model: onnx.ModelProto, folder: Path, source: str, digest: "hashlib._Hash | None" = None) -> None:
    """Replace every reference to another file by the bytes that it refers to.

    Args:
        model: changed.
        folder: that the model's file stands in.
        source: what to call the file in an error.
        digest: takes all that is read.

    Raises:
        SourceError: a reference leads out of the folder, through a symbolic link, or past the end of a file; the
            tensor is not as large as its shape; or there is more than fits into one file.
    """
    total = 0
    files: dict[str, int] = {}
    with ExitStack() as stack:
        for tensor in tensors(model):
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            where = f"{source}: tensor {tensor.name[:100]!r}"
            entries = {item.key: item.value for item in tensor.external_data}
            location = entries.get("location", "")
            try:
                offset, length = (int(entries.get(key) or 0) for key in ("offset", "length"))
                if location not in files:
                    files[location] = _opened(folder, location)
                    stack.callback(os.close, files[location])
                size = os.fstat(files[location]).st_size
                if "length" not in entries:
                    length = size - offset
                total += length
                if total > LARGEST_FILE:
                    raise SourceError(f"{source}: its weights are over {LARGEST_FILE:,} bytes; one file holds no more")
                if offset < 0 or length < 0 or offset + length > size:
                    raise ValueError(f"bytes {offset} to {offset + length} of {size}")
                data = _read(files[location], offset, length)
            except OSError as error:
                raise SourceError(
                    f"{where} stands in {location[:100]!r}, which cannot be read: {error.strerror}; external data is "
                    "read from plain files in the model's own folder"
                ) from error
            except ValueError as error:
                raise SourceError(f"{where} refers to no place in {location[:100]!r}: {error}") from error
            if digest is not None:
                digest.update(data)
            tensor.raw_data = data
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers and attributes, of its graph, of those in it and of its functions."""
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def _opened(folder: Path, location: str) -> int:
    """A descriptor of a regular file below the folder; no step of the way is a symbolic link."""
    parts = PurePosixPath(location).parts
    if not parts or location.startswith("/") or ".." in parts or "\\" in location or "\0" in location:
        raise OSError(errno.EACCES, "its path leaves the model's folder")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for k, part in enumerate(parts):
        last = k == len(parts) - 1
        kind = os.O_NONBLOCK if last else os.O_DIRECTORY  # without waiting for whoever may write to a pipe
        try:
            below = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=descriptor)
        except OSError as error:
            if error.errno == errno.ELOOP or (not last and Path(folder, *parts[: k + 1]).is_symlink()):
                raise OSError(errno.ELOOP, "it is a symbolic link, or behind one") from error
            raise
        finally:
            os.close(descriptor)
        descriptor = below
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return descriptor


def _read(descriptor: int, offset: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.pread(descriptor, min(length, 2**30), offset)
        if not part:
            raise ValueError("the file became shorter while it was read")
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
