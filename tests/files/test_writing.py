"""A file appears whole or not at all, and nothing else beside it changes."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gatestream.files.writing import deliver, replacing, write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_has_the_mode_that_any_program_gives_it(tmp_path: Path) -> None:
    write(tmp_path / "made" / "on" / "the" / "way", b"x")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "made/on/the/way").stat().st_mode & 0o777 == 0o666 & ~umask
    assert names(tmp_path / "made/on/the") == ["way"]


def test_a_file_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    write(path, b"new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)


def test_a_symbolic_link_stays_and_its_target_is_new(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("old")
    for link, target in (("first", "real/file"), ("second", "first"), ("dangling", "real/new")):
        (tmp_path / link).symlink_to(target)
    write(tmp_path / "second", b"new")
    write(tmp_path / "dangling", b"made")
    assert (tmp_path / "real/file").read_text() == "new"
    assert (tmp_path / "real/new").read_text() == "made"
    assert all((tmp_path / link).is_symlink() for link in ("first", "second", "dangling"))
    assert names(tmp_path / "real") == ["file", "new"]


def test_another_name_of_the_file_keeps_what_it_had(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("old")
    (tmp_path / "other").hardlink_to(tmp_path / "one")
    write(tmp_path / "one", b"new")
    assert (tmp_path / "other").read_text() == "old"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_goes_wrong_meanwhile_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def half() -> None:
        with replacing(path) as draft:
            draft.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        half()
    assert (path.read_text(), names(tmp_path)) == ("old", ["file"])
    if isinstance(error, OSError):
        assert isinstance(caught.value, OSError)
        assert caught.value.filename == str(path)


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on the size of files is as near to a full disk as a process can get by itself."""
    path = tmp_path / "file"
    path.write_text("old")
    code = (
        "import resource, signal, sys; from pathlib import Path; from gatestream.files.writing import write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))\n"
        "try: write(Path(sys.argv[1]), bytes(2000))\n"
        # What else the process writes at its end, coverage's data for one, is none of this.
        "finally: resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{path}'"
    assert (path.read_text(), names(tmp_path)) == ("old", ["file"])


def test_a_folder_on_the_way_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileExistsError, match="file"):
        write(tmp_path / "file" / "new", b"x")
    assert (tmp_path / "file").read_text() == "old"


def test_a_pipe_gets_the_bytes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDWR)
    data = bytes(range(256)) * 1000  # more than a pipe holds
    writer = threading.Thread(target=deliver, args=(tmp_path / "pipe", data))
    writer.start()
    got = b""
    while len(got) < len(data):
        got += os.read(descriptor, len(data))
    writer.join()
    os.close(descriptor)
    assert got == data
    assert (tmp_path / "pipe").is_fifo()


def test_a_pipe_that_nobody_reads_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="nobody reads it"):
        deliver(tmp_path / "pipe", b"x")
