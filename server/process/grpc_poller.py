"""How the gRPC of a server waits for its sockets. gRPC reads this when it is imported: import this module before.

Its completion queue's thread reads them itself, as it did for years, instead of having each message handed to it by
threads of the event engine; that is what the experiment is called which is turned off here. What that was measured to
give stands in docs/map.md.

Who sets GRPC_EXPERIMENTS has the last word. The workers of a server inherit it.
"""

import os

os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
# gRPC's core writes its lines to standard error by itself, and whoever can connect can make it write more of them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
