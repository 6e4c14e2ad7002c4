"""All that is written by hand."""

from collections.abc import Callable
from pathlib import Path

from tests.support.strangers import keras, layers, signatures, windows
from tests.support.strangers.stranger import Stranger

Generator = Callable[[Path], Stranger]


def _gru_of_old(folder: Path) -> Stranger:
    """`linear_before_reset` 0, as keras' `reset_after=False` and the operator's own default."""
    return layers.gru_two_layers(folder, linear_before_reset=0)


ADOPTED: dict[str, Generator] = {
    generator.__name__.strip("_"): generator
    for generator in (
        layers.lstm_exposed,
        layers.lstm_absent,
        layers.lstm_computed_zeros,
        layers.gru_two_layers,
        _gru_of_old,
        layers.rnn_no_bias,
        layers.lstm_packed,
        layers.lstm_last_axis,
        layers.lstm_cell_unrolled,
        layers.gru_cell_unrolled,
        layers.gru_float16,
        keras.keras_stateless,
        keras.keras_states,
        keras.keras_stateful,
        keras.gru_loop,
        keras.rnn_loop,
        keras.scan,
        windows.window,
        windows.context,
        windows.context_sequence,
        windows.context_sequences,
        windows.sample_rate,
        windows.ignored_input,
        windows.int16_window,
        windows.caches,
        windows.embedding,
        windows.smoothing,
        signatures.frozen_batch,
        signatures.frozen_time,
        signatures.frozen_start,
        signatures.frozen_inside,
        signatures.no_batch,
        signatures.tokens,
        signatures.unlike_axes,
        signatures.external_data,
        signatures.quantised,
    )
}
"""By name: files that become artifacts."""

REFUSED: dict[str, Generator] = {
    generator.__name__: generator
    for generator in (
        signatures.bidirectional,
        signatures.padded_convolution,
        signatures.frozen_steps,
        signatures.no_state,
        signatures.swapped_on_purpose,
    )
}
"""By name: files that must not."""
