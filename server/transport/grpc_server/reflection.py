"""Server reflection, in both of its versions: which services there are, and the files that describe them."""

from collections.abc import Sequence
from typing import Any, Final

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from gatestream.server.transport.grpc_server.definition import ServiceDefinition

# Of both versions: they differ in the name of the package.
_DESCRIPTOR: Final[Any] = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
_NAMES: Final = (_DESCRIPTOR.full_name, _DESCRIPTOR.full_name.replace("v1alpha", "v1"))


def reflection(services: Sequence[ServiceDefinition]) -> ServiceDefinition:
    """The service that describes a server's services.

    Args:
        services: those that there are, besides reflection itself.
    """
    pool = DescriptorPool()
    for service in services:
        _add(service.descriptor.file, pool)
    v1alpha = _add(_DESCRIPTOR.file, pool)
    pool.Add(text_format.Parse(text_format.MessageToString(v1alpha).replace("v1alpha", "v1"), FileDescriptorProto()))
    names = [*_NAMES, *(service.descriptor.full_name for service in services)]
    return ServiceDefinition(_DESCRIPTOR, aio.ReflectionServicer(names, pool), names=_NAMES)


def _add(file: Any, pool: DescriptorPool) -> FileDescriptorProto:
    for dependency in file.dependencies:
        _add(dependency, pool)
    copy = FileDescriptorProto()
    file.CopyToProto(copy)
    pool.Add(copy)
    return copy
