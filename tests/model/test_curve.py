from pathlib import Path

from PIL import Image

from gatestream.model.curve import draw_curve
from gatestream.model.tasks.reber import Reber
from gatestream.model.training import Settings, Trainer


def test_a_run_is_drawn(tmp_path: Path) -> None:
    task = Reber(4, 10, seed=0, judged=(2, 500))
    trainer = Trainer(task, task.config("n", 8, 1), Settings(updates=2, learning_rate=0.1, interval=1))
    for _ in range(2):
        trainer.update()
        trainer.evaluate()
    draw_curve(trainer, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (960, 540)
