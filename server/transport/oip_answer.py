"""The bytes of answers of the Open Inference Protocol."""

from typing import Final, NamedTuple

from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.layout import Column
from gatestream.server.core.batches import GATES, OUTPUTS
from gatestream.server.transport.oip_request import DATATYPES, Asked
from gatestream.server.transport.wire import head

_RAW_OUTPUT: Final = oip.ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number
_INFER_RESPONSE: Final = oip.ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number
# On a stream, where a request of another server may have several answers. Here every answer is the only one.
_FINAL: Final = "triton_final_response"


class Template(NamedTuple):
    """All of an answer but its numbers.

    Attributes:
        before: what stands before each column.
        columns: which of the engine's columns stand in the answer.
    """

    before: list[bytes]
    columns: list[int]

    @classmethod
    def of(cls, asked: Asked, *, streamed: bool) -> "Template":
        """For the answers to a request, and to those that ask for the same.

        Args:
            asked: the request.
            streamed: ModelStreamInferResponse, else ModelInferResponse.
        """
        spec, layout = asked.model.spec, asked.model.layout
        shown: list[Column] = list(layout.outputs) if asked.wants & OUTPUTS else []
        if asked.wants & GATES:
            shown += layout.gates
        places = {item.name: k for k, item in enumerate(shown)}
        columns = [places[name] for name in asked.outputs]
        response = oip.ModelInferResponse(model_name=spec.name, model_version=spec.version, id=asked.id)
        sizes = []
        for k in columns:
            item = shown[k]
            response.outputs.add(name=item.name, datatype=DATATYPES[item.dtype], shape=[1, asked.steps, *item.shape])
            sizes.append(asked.steps * item.row_bytes)
        if streamed:
            response.parameters[_FINAL].bool_param = True
        before = [head(_RAW_OUTPUT, size) for size in sizes]
        begin = response.SerializeToString()
        if streamed:
            begin = head(_INFER_RESPONSE, len(begin) + sum(map(len, before)) + sum(sizes)) + begin
        before[0] = begin + before[0]
        return cls(before, columns)


def error_answer(request_id: str, text: str) -> bytes:
    """A ModelStreamInferResponse that says why a request was refused."""
    response = oip.ModelInferResponse(id=request_id)
    response.parameters[_FINAL].bool_param = True
    return oip.ModelStreamInferResponse(error_message=text, infer_response=response).SerializeToString()
