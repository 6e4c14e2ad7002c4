"""The ModelSpec of a network's artifact."""

import gatestream
from gatestream.export.formats import FORMATS, Precision
from gatestream.model.config import NetworkConfig
from gatestream.protos import spec as specs
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import ONNX_ORDER_NAME, ROLES


def describe(
    config: NetworkConfig,
    form: pb.Form,
    *,
    version: str,
    fingerprint: str,
    opset: int,
    torch_version: str,
    weights: Precision = "float32",
) -> pb.ModelSpec:
    """Say what the tensors of a network's artifact mean. Parity figures are added when they are known."""
    shape = [config.layers, config.hidden]
    takes = f"one of {config.inputs} tokens" if config.tokens else f"{config.inputs} numbers"
    # Tokens without names are named by their ids, so that a reader knows how many there are.
    vocabulary = config.vocabulary or [str(token) for token in range(config.inputs if config.tokens else 0)]
    return pb.ModelSpec(
        contract=specs.CONTRACT,
        name=config.name,
        version=version,
        description=f"LSTM, {config.layers} x {config.hidden}: {takes} in, {config.outputs} numbers out",
        task=config.task,
        form=form,
        cell=pb.CELL_KIND_LSTM,
        layers=config.layers,
        hidden=config.hidden,
        inputs=[
            pb.TensorSpec(
                name="x",
                dtype=pb.DATA_TYPE_INT64 if config.tokens else pb.DATA_TYPE_FLOAT32,
                shape=[] if config.tokens else [config.inputs],
                columns=config.columns,
                vocabulary=vocabulary,
                mean=config.input_mean,
                scale=config.input_scale,
            )
        ],
        length_input="length",
        outputs=[
            pb.TensorSpec(
                name="y",
                dtype=pb.DATA_TYPE_FLOAT32,
                shape=[config.outputs],
                columns=config.output_columns,
                vocabulary=config.vocabulary if len(config.vocabulary) == config.outputs else (),
                mean=config.output_mean,
                scale=config.output_scale,
            )
        ],
        states=[
            pb.StateSpec(input=name, output=f"{name}_next", dtype=pb.DATA_TYPE_FLOAT32, shape=shape)
            for name in ("h", "c")
        ],
        gates=[
            pb.GateSpec(name=role.name, symbol=role.symbol, output=role.symbol)
            for role in ROLES
            if form == pb.FORM_GATES
        ],
        packed_gate_order=ONNX_ORDER_NAME if form == pb.FORM_FUSED else "",
        opset=opset,
        torch_version=torch_version,
        gatestream_version=gatestream.__version__,
        weights_fingerprint=fingerprint,
        weights=FORMATS[weights],
    )
