"""Small networks, one for each encoder, with what each has that the others have not."""

import torch

from gatestream.model.network import Network, NetworkConfig

TOKENS = NetworkConfig(
    name="tokens", task="reber", encoder="one_hot", inputs=5, hidden=6, layers=2, outputs=5, vocabulary=tuple("BTSXE")
)
EMBEDDING = NetworkConfig(
    name="embedding", task="text", encoder="embedding", inputs=4, embedding=9, hidden=5, outputs=3
)
SERIES = NetworkConfig(
    name="series",
    task="series",
    encoder="linear",
    inputs=2,
    embedding=3,
    hidden=4,
    outputs=4,
    columns=("load", "temperature"),
    output_columns=("load+1", "temperature+1", "load+2", "temperature+2"),
    input_mean=(1500.0, -3.0),
    input_scale=(250.0, 0.5),
    output_mean=(1500.0, -3.0, 1500.0, -3.0),
    output_scale=(250.0, 0.5, 250.0, 0.5),
)
NUMBERS = NetworkConfig(name="numbers", task="own", encoder="none", inputs=3, hidden=8, outputs=1)
ALL = {config.name: config for config in (TOKENS, EMBEDDING, SERIES, NUMBERS)}


def random(config: NetworkConfig, seed: int = 0) -> Network:
    """A network whose gates are all over their range, not about one half as those of a new one."""
    torch.manual_seed(seed)
    network = Network(config)
    with torch.no_grad():
        for cell in network.cells:
            for parameter in cell.parameters():
                parameter.mul_(2)
    return network
