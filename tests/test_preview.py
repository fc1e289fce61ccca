"""`detector preview_augment` draws what the training with these options is shown first."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.cli import COMMANDS, main, parse
from detector.config import TrainConfig
from detector.data.load import load_split
from detector.demo.scenes import make_dataset
from detector.images.grids import plot_batch
from detector.training.dataset import augmented_batch

OPTIONS = ["--image_size=64", "--augment.rotate=20", "--augment.copy_paste=1", "--augment.flipud=0.5"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=1, train=40, val=3, test=3)
    return root


def test_the_images_are_those_of_the_training(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "preview"
    assert main(["preview_augment", f"--data={scenes}", f"--out={out}", *OPTIONS]) == 0
    full, weak = out / "augmentation-full.png", out / "augmentation-weak.png"
    assert f"written: {full}, {weak}" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [full.name, weak.name]
    config = parse("train", COMMANDS["train"], [f"--data={scenes}", "--batch_size=32", *OPTIONS])
    assert isinstance(config, TrainConfig)
    dataset = load_split(str(scenes), "train", polygons=True)
    for path, epoch in ((full, 0), (weak, config.epochs - 1)):
        batch = augmented_batch(config, dataset, epoch, limit=32)
        assert len(batch.images) == 32
        plot = plot_batch(batch, dataset.categories, columns=8, cell=320)
        assert (np.asarray(Image.open(path)) == plot).all()


def test_without_weak_augmentation_there_is_one_file(scenes: Path, tmp_path: Path) -> None:
    arguments = [f"--data={scenes}", f"--out={tmp_path}", "--image_size=64", "--augment.weak_aug_epochs=0"]
    assert main(["preview_augment", *arguments]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["augmentation-full.png"]


def test_bad_input_is_one_line(tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, message in (
        ([f"--data={tmp_path / 'none'}"], "does not exist"),
        ([f"--data={scenes}", "--augment.rotate=200"], "augment.rotate: invalid value 200"),
        ([f"--data={scenes}", "--augment.perspective=0.5"], "from 0 to 0.4"),
        ([f"--data={scenes}", "--augment.copy_paste={s: 0.5}"], "augment.copy_paste: there is no number for yolo11n"),
        ([f"--data={scenes}", "--augment.copy_paste={n: 2}"], "augment.copy_paste.n: invalid value 2"),
    ):
        assert main(["preview_augment", f"--out={tmp_path / 'out'}", *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
