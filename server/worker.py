"""One worker of a server that has several: a process of its own, started by gatestream.server.process.supervisor."""

import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection

from gatestream.server.errors import ServerError, first_of
from gatestream.server.process.link import Failed, Orders, Worker


def main(descriptor: int) -> None:
    """Be a worker.

    Args:
        descriptor: of this process's end of the link.
    """
    # What a terminal sends goes to every process at once; the supervisor knows what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    link = Connection(descriptor)
    try:
        orders: Orders = link.recv()
    except EOFError:
        sys.exit(1)

    from gatestream.server.process.tuning import tune

    # Before gRPC is imported.
    tuned = tune(orders.config)

    from gatestream.server.app import serve
    from gatestream.server.logs import configure

    configure(orders.config.log_format, worker=orders.worker)
    try:
        tuned.run(serve(orders.config, Worker(link, orders), tuned))
    except Exception as error:
        first = first_of(error)
        if isinstance(first, ServerError):
            link.send(Failed(str(first), fault=False))
        else:
            link.send(Failed(f"worker {orders.worker}: {type(first).__name__}: {first}", fault=True))
        if os.environ.get("GATESTREAM_TRACEBACK"):
            traceback.print_exception(error)
        sys.exit(1)
