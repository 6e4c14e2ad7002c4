import numpy as np
import pytest
from numpy.typing import NDArray

from gatestream.model.tasks.series import Series
from gatestream.model.tasks.task import DataError, Session


def ramp(rows: int = 100) -> NDArray[np.float32]:
    """a counts up by 1, b counts down by 10, c never changes."""
    counted = np.arange(rows, dtype=np.float32)
    return np.stack([counted, -10 * counted, np.full_like(counted, 4)], axis=1)


def series(values: NDArray[np.float32], horizon: int = 2, steps: int = 5) -> Series:
    columns = ("a", "b", "c")[: values.shape[1]]
    return Series(columns, values, streams=4, steps=steps, seed=0, horizon=horizon)


def test_targets_are_the_rows_that_follow_nearest_first() -> None:
    window = series(ramp()).window()
    assert window.inputs.shape == (4, 5, 3)
    assert window.targets.shape == (4, 5, 6)
    a = window.inputs[..., 0]
    np.testing.assert_array_equal(
        window.targets, np.stack([a + 1, -10 * (a + 1), a * 0 + 4, a + 2, -10 * (a + 2), a * 0 + 4], axis=-1)
    )


def test_the_normalisation_of_the_training_part_is_in_the_configuration() -> None:
    config = series(ramp()).config("ramp", hidden=8, layers=1)
    assert config.columns == ("a", "b", "c")
    assert config.output_columns == ("a+1", "b+1", "c+1", "a+2", "b+2", "c+2")
    spread = np.arange(80).std()
    np.testing.assert_allclose(config.input_mean, [39.5, -395, 4])
    np.testing.assert_allclose(config.input_scale, [spread, 10 * spread, 1])
    assert config.output_mean == config.input_mean * 2
    assert config.output_scale == config.input_scale * 2


def test_the_last_fifth_is_never_trained_on() -> None:
    task = series(ramp())
    assert max(task.window().targets[..., 3].max() for _ in range(200)) == 79


def test_the_error_is_in_standard_deviations() -> None:
    task = series(ramp())
    spread = np.arange(80).std()

    def off_by_one(batch: int) -> Session:
        assert batch == 1
        steps = np.array([[1, -10, 0, 2, -20, 0]])
        return lambda inputs: (np.tile(inputs, 2) + steps + [1, 0, 0, 0, 0, 0]).astype(np.float32)

    evaluation = task.evaluate(off_by_one)
    assert evaluation.score == pytest.approx(np.sqrt(1 / 6) / spread, rel=1e-5)
    repeating = np.sqrt((1 + 1 + 4 + 4) / 6) / spread
    assert f"(repeating the last row: {repeating:.3f})" in evaluation.summary
    assert evaluation.solved is None


def test_too_short_a_table() -> None:
    with pytest.raises(DataError, match="14 rows, expected at least 15 for windows of 5 steps and a horizon of 2"):
        series(ramp(14))


@pytest.mark.parametrize(("steps", "horizon"), [(5, 2), (1, 4), (40, 1), (3, 3)])
def test_the_shortest_table_will_do(steps: int, horizon: int) -> None:
    with pytest.raises(DataError, match="expected at least") as error:
        series(ramp(3), horizon, steps)
    needed = int(str(error.value).split("at least ")[1].split()[0])
    task = series(ramp(needed), horizon, steps)
    assert task.window().inputs.shape == (4, steps, 3)
    assert np.isfinite(task.evaluate(lambda _: lambda inputs: np.tile(inputs, horizon)).score)


def test_horizon_and_columns_make_another_run() -> None:
    values = ramp()
    one_column = series(values[:, :1])
    assert one_column.config("n", 8, 1).inputs == 1
    identities = [task.identity for task in (series(values), series(values, horizon=3), one_column)]
    assert all(one != other for k, one in enumerate(identities) for other in identities[:k])
