"""A server that counts its own objects when it is asked to.

`start_under(counted(path), ...)` runs `gatestream serve` in a process that writes the counts to a file at SIGUSR1.
"""

import gc
import json
import signal
import sys
from collections import Counter
from pathlib import Path

from tests.support.process import ServerProcess
from tests.support.wire import until


def counted(path: Path) -> tuple[str, ...]:
    """What to start a server under."""
    return (sys.executable, "-m", "tests.support.counted", str(path))


def objects(server: ServerProcess, path: Path) -> Counter[str]:
    """How many objects there are of each class of the server's own, now."""
    path.unlink(missing_ok=True)
    server.popen.send_signal(signal.SIGUSR1)
    until(path.exists, "the objects were counted")
    return Counter(json.loads(path.read_text()))


def _count(path: Path) -> None:
    gc.collect()
    kinds = (type(each) for each in gc.get_objects())
    # A class of Cython's own may hold a descriptor there instead of a string.
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds if isinstance(kind.__module__, str))
    counts = Counter(name for name in names if name.startswith("gatestream."))
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(counts))
    draft.rename(path)


def _main(path: Path, command: list[str]) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: _count(path))

    from gatestream.cli.main import main

    main(command[command.index("gatestream.cli") + 1 :], prog_name="gatestream")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv)
