"""The gRPC statuses that this server's errors end calls with."""

from typing import Any, Final

import grpc

from gatestream.server.errors import Code, Failed, Idle, NotOffered, OutOfStep, Refused, Unauthenticated

STATUS: Final = {
    Code.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Code.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Code.RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Code.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Code.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}


async def abort(context: Any, error: Refused | Unauthenticated | Failed | Idle | NotOffered) -> None:
    """End a call with an error's status; its reason, and where the session stands, go into the trailing metadata."""
    trailing: list[tuple[str, str]] = []
    if isinstance(error, Refused):
        trailing.append(("gatestream-reason", error.reason.value))
        if error.retry_after:
            trailing.append(("gatestream-retry-after-ms", str(int(1000 * error.retry_after) + 1)))
        if isinstance(error, OutOfStep) and error.position >= 0:
            trailing.append(("gatestream-position", str(error.position)))
    await context.abort(STATUS[error.code], str(error), tuple(trailing))
