from pathlib import Path

import numpy as np
import pytest

from gatestream.model.tasks.series import Series
from gatestream.model.tasks.task import DataError, Session


def ramp(tmp_path: Path, rows: int = 100) -> Path:
    """a counts up by 1, b counts down by 10, c never changes."""
    file = tmp_path / "a.csv"
    file.write_text("a,b,c\n" + "".join(f"{k},{-10 * k},4\n" for k in range(rows)))
    return file


def series(path: Path, horizon: int = 2, steps: int = 5) -> Series:
    return Series(path, streams=4, steps=steps, seed=0, horizon=horizon)


def test_targets_are_the_rows_that_follow_nearest_first(tmp_path: Path) -> None:
    window = series(ramp(tmp_path)).window()
    assert window.inputs.shape == (4, 5, 3)
    assert window.targets.shape == (4, 5, 6)
    a = window.inputs[..., 0]
    np.testing.assert_array_equal(
        window.targets, np.stack([a + 1, -10 * (a + 1), a * 0 + 4, a + 2, -10 * (a + 2), a * 0 + 4], axis=-1)
    )


def test_the_normalisation_of_the_training_part_is_in_the_configuration(tmp_path: Path) -> None:
    config = series(ramp(tmp_path)).config("ramp", hidden=8, layers=1)
    assert config.columns == ("a", "b", "c")
    assert config.output_columns == ("a+1", "b+1", "c+1", "a+2", "b+2", "c+2")
    spread = np.arange(80).std()
    np.testing.assert_allclose(config.input_mean, [39.5, -395, 4])
    np.testing.assert_allclose(config.input_scale, [spread, 10 * spread, 1])
    assert config.output_mean == config.input_mean * 2
    assert config.output_scale == config.input_scale * 2


def test_the_last_fifth_is_never_trained_on(tmp_path: Path) -> None:
    task = series(ramp(tmp_path))
    assert max(task.window().targets[..., 3].max() for _ in range(200)) == 79


def test_the_error_is_in_standard_deviations(tmp_path: Path) -> None:
    task = series(ramp(tmp_path))
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


def test_too_short_a_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="14 rows, expected at least 15 for windows of 5 steps and a horizon of 2"):
        series(ramp(tmp_path, 14))


@pytest.mark.parametrize(("steps", "horizon"), [(5, 2), (1, 4), (40, 1), (3, 3)])
def test_the_shortest_table_will_do(tmp_path: Path, steps: int, horizon: int) -> None:
    with pytest.raises(DataError, match="expected at least") as error:
        series(ramp(tmp_path, 3), horizon, steps)
    needed = int(str(error.value).split("at least ")[1].split()[0])
    task = series(ramp(tmp_path, needed), horizon, steps)
    assert task.window().inputs.shape == (4, steps, 3)
    assert np.isfinite(task.evaluate(lambda _: lambda inputs: np.tile(inputs, horizon)).score)


def test_horizon_and_columns_make_another_run(tmp_path: Path) -> None:
    path = ramp(tmp_path)
    one_column = Series(path, streams=4, steps=5, seed=0, horizon=2, columns=["a"])
    assert one_column.config("n", 8, 1).inputs == 1
    identities = [task.identity for task in (series(path), series(path, horizon=3), one_column)]
    assert all(one != other for k, one in enumerate(identities) for other in identities[:k])
