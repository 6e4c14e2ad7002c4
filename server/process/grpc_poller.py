"""How the gRPC of a server waits for its sockets.

Its completion queue's thread reads them itself, as it did for years, instead of having each message handed to it by
threads of the event engine; that is what the experiment is called which is turned off here. gRPC reads this when it is
imported. Who sets GRPC_EXPERIMENTS has the last word.
"""

import mmap
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

from gatestream.server.errors import cut

_VARIABLE: Final = "GRPC_EXPERIMENTS"
_EXPERIMENT: Final = "event_engine_listener"


def why_not() -> str | None:
    """Why gRPC cannot be told here; None: it can be, or was."""
    given = os.environ.get(_VARIABLE)
    if given not in (None, f"-{_EXPERIMENT}"):
        return f"{_VARIABLE} is {cut(given)!r}, which has the last word"
    if given is None and "grpc" in sys.modules:
        return "gRPC was imported before it could be told"
    return None if _is_known() else f"this grpcio has no experiment {_EXPERIMENT}"


def _is_known() -> bool:
    """Whether the name stands in gRPC's library, which has no other way to ask before it is imported."""
    package = PathFinder.find_spec("grpc")
    assert package is not None
    folders = [str(Path(place, "_cython")) for place in package.submodule_search_locations or ()]
    library = PathFinder.find_spec("cygrpc", folders)
    assert library is not None
    assert library.origin is not None
    with Path(library.origin).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"\0%b\0" % _EXPERIMENT.encode()) >= 0


def read_in_queue() -> None:
    """Have gRPC's queue read the sockets, in this process, which has not imported gRPC yet."""
    os.environ.setdefault(_VARIABLE, f"-{_EXPERIMENT}")
