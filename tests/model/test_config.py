import json
from typing import Any

import pytest

from gatestream.model.config import ConfigError, NetworkConfig

TOKENS: dict[str, Any] = {
    "name": "n", "task": "text", "encoder": "one_hot", "inputs": 2, "hidden": 4, "outputs": 2,
}  # fmt: skip
NUMBERS: dict[str, Any] = TOKENS | {"encoder": "none", "task": "series"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (TOKENS | {"encoder": "hot"}, "encoder: 'hot' is none of one_hot, embedding, linear, none"),
        (TOKENS | {"hidden": 0}, "hidden: 0, expected at least 1"),
        (TOKENS | {"encoder": "embedding"}, "embedding: 0 with encoder 'embedding'"),
        (TOKENS | {"embedding": 3}, "embedding: 3 with encoder 'one_hot'"),
        (TOKENS | {"vocabulary": ("a",)}, "vocabulary: 1 entries, expected none or 2"),
        (NUMBERS | {"vocabulary": ("a", "b")}, "vocabulary: 2 entries, expected none or 0"),
        (NUMBERS | {"columns": ("a",)}, "columns: 1 entries, expected none or 2"),
        (NUMBERS | {"input_mean": (0.0, 0.0)}, "input_scale: 0 entries, but input_mean has 2"),
        (NUMBERS | {"output_mean": (0.0, 0.0), "output_scale": (1.0, 0.0)}, "output_scale: 0.0, expected every"),
        (TOKENS | {"input_mean": (0.0, 0.0), "input_scale": (1.0, 1.0)}, "input_mean: given with encoder"),
    ],
)
def test_a_field_that_cannot_be_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkConfig(**fields)


def test_json_brings_back_what_was_written() -> None:
    config = NetworkConfig(**NUMBERS | {"columns": ("a", "ü"), "input_mean": (0.1, 2), "input_scale": (1e-7, 3)})
    assert NetworkConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"colour": 1}', "unexpected fields: colour"),
        ('{"name": "n"}', "fields are missing or of a wrong type: .*'task'"),
        (json.dumps(TOKENS | {"hidden": "4"}), "of a wrong type"),
    ],
)
def test_json_of_something_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkConfig.from_json(text)
