"""A ModelSpec inside an ONNX file: proto3 JSON in `metadata_props`, under one key."""

from collections.abc import Mapping

from google.protobuf import json_format

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

KEY = "gatestream.spec"
CONTRACT = 1


class SpecError(ValueError):
    """The file does not say what it is, or says it in a way that this version cannot read."""


def to_json(spec: pb.ModelSpec) -> str:
    """The text to store under `KEY`."""
    return json_format.MessageToJson(spec, indent=None)


def from_metadata(metadata: Mapping[str, str], source: str) -> pb.ModelSpec:
    """Read the spec from a file's metadata.

    Args:
        metadata: the file's `metadata_props` as a mapping.
        source: what to call the file in an error.

    Raises:
        SpecError: no spec, not a spec, or of a contract that this version does not know.
    """
    if KEY not in metadata:
        raise SpecError(
            f"{source}: no '{KEY}' in its metadata, so it is not a gatestream artifact; "
            "make one with `gatestream export`"
        )
    try:
        # Fields of a later minor version are no obstacle; what changes the meaning raises the contract.
        spec = json_format.Parse(metadata[KEY], pb.ModelSpec(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise SpecError(f"{source}: its '{KEY}' is not a ModelSpec: {error}") from error
    if spec.contract != CONTRACT:
        raise SpecError(
            f"{source}: contract {spec.contract}, this version of gatestream reads {CONTRACT}; "
            "export the model again, or serve it with the version that wrote it "
            f"({spec.gatestream_version or 'unknown'})"
        )
    return spec
