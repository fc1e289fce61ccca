"""Weights by name: only as they were shipped; from an installed package, see test_wheel.py."""

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lively_model import lively_model
from safetensors.torch import load_file
from small_run import small_config

from detector.cli import main
from detector.config import TrainConfig
from detector.data.coco import CocoDataset
from detector.data.layouts import find_split
from detector.demo.scenes import make_dataset
from detector.errors import WeightsError
from detector.evaluation.evaluate import evaluate_model
from detector.inference.detector import Detector
from detector.models.catalog import create_model
from detector.structures import Categories
from detector.training.setup import set_up, with_absolute_paths
from detector.weights import shipped
from detector.weights.files import WeightsInfo, load_weights, save_weights

REPOSITORY = Path(__file__).parents[1]
BCCD = REPOSITORY.parent / "shared" / "data" / "bccd"
INFO = WeightsInfo("yolo11n", Categories((1, 2, 3), ("RBC", "WBC", "Platelets")), 64, {}, {}, "MIT")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped weights with one file, toy.safetensors."""
    folder = tmp_path / "weights"
    save_weights(folder / "toy.safetensors", lively_model(3), INFO, half=True)
    digest = hashlib.sha256((folder / "toy.safetensors").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  toy.safetensors\n")
    monkeypatch.setattr(shipped, "FOLDER", folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return folder


def test_a_name_is_as_good_as_a_path(folder: Path) -> None:
    by_name, info = load_weights("toy")
    by_path, _ = load_weights(folder / "toy.safetensors")
    assert info == INFO
    assert all(torch.equal(a, b) for a, b in zip(by_name.parameters(), by_path.parameters(), strict=True))
    assert Detector.load("toy", device="cpu").categories == INFO.categories


def test_the_sums_are_in_the_format_of_sha256sum(folder: Path) -> None:
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "toy.safetensors: OK\n")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["toi", "toy.safetensors", "x/toy", "../weights/toy"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(
        WeightsError, match=f"there is no file {name};.* shipped weights are: toy; of downloadable ones"
    ):
        load_weights(name)


def test_a_folder_without_weights_has_no_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", folder.parent)
    with pytest.raises(WeightsError, match="shipped weights are: none"):
        load_weights("toy")


@pytest.mark.parametrize("damage", ["one bit", "cut", "gone"])
def test_a_damaged_file_is_refused_by_name(folder: Path, damage: str) -> None:
    path = folder / "toy.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(content if damage == "one bit" else content[:-1])
    with pytest.raises(WeightsError, match=r"toy\.safetensors: missing or damaged.*; git checkout weights/ brings"):
        load_weights("toy")


@pytest.mark.usefixtures("folder")
def test_a_file_of_ones_own_goes_before_a_name() -> None:
    other = WeightsInfo("yolo11n", Categories((1,), ("mine",)), 64, {}, {}, "MIT")
    save_weights(Path("toy"), lively_model(1), other)
    assert load_weights("toy")[1] == other


@pytest.mark.usefixtures("folder")
def test_the_commands_take_names(capsys: pytest.CaptureFixture[str]) -> None:
    image = REPOSITORY / "detector" / "exporting" / "photos"
    assert main(["infer", str(image), "--weights", "toy", "--out", "found", "--device", "cpu"]) == 0
    names = {entry["category_name"] for entry in json.loads(Path("found/detections.json").read_text())}
    assert names <= set(INFO.categories.names)
    assert main(["export", "--weights", "tot", "--out", "x.onnx"]) == 2
    assert "there is no file tot" in capsys.readouterr().err


def test_the_configuration_of_a_run_holds_the_file_that_the_name_stood_for(folder: Path) -> None:
    assert with_absolute_paths(TrainConfig(weights="toy")).weights == str(folder / "toy.safetensors")
    assert with_absolute_paths(TrainConfig()).weights is None


@pytest.mark.slow
def test_a_training_starts_from_the_networks_base_weights(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If none are asked for; the configuration of the run names them."""
    base = folder / "toy.safetensors"
    base.rename(folder / "yolo11n-base.safetensors")
    (folder / "SHA256SUMS").write_text((folder / "SHA256SUMS").read_text().replace("toy", "yolo11n-base"))
    make_dataset(tmp_path / "drawn", train=4, val=3, test=3)
    config = small_config(tmp_path / "drawn", tmp_path / "run", weights=None)
    run, state = set_up(config)
    assert "yolo11n-base; --weights scratch starts from random ones\n" in capsys.readouterr().out
    assert run.config.weights == str(folder / "yolo11n-base.safetensors")
    assert torch.equal(state.model.stem[0].conv.weight, load_weights("yolo11n-base")[0].stem[0].conv.weight)
    for other in (
        replace(config, out=str(tmp_path / "second"), weights="scratch"),
        replace(config, out=str(tmp_path / "third"), model="yolo11m"),
    ):
        run, state = set_up(other)
        assert run.config.weights == "scratch"
        torch.manual_seed(0)
        assert torch.equal(
            state.model.stem[0].conv.weight,
            create_model(other.model, len(run.train_dataset.categories)).stem[0].conv.weight,
        )
        assert "--weights" not in capsys.readouterr().out


def test_what_is_shipped_is_whole_and_small() -> None:
    """The repository's own folder: every file has its checksum, loads by name and is in half precision."""
    files = {path.name: path for path in (REPOSITORY / "weights").glob("*.safetensors")}
    assert shipped.checksums().keys() == files.keys() == {"yolo11n-base.safetensors", "yolo11n-bccd.safetensors"}
    for name, path in files.items():
        load_weights(name.removesuffix(".safetensors"))
        assert path.stat().st_size < 6_000_000
        assert load_file(path)["stem.0.conv.weight"].dtype == torch.float16


@pytest.mark.slow
@pytest.mark.skipif(not BCCD.exists(), reason="needs ../shared/data/bccd")
def test_the_shipped_weights_score_what_their_card_says() -> None:
    model, info = load_weights("yolo11n-bccd")
    images = CocoDataset.load(find_split(BCCD, "test"), info.categories)
    detector = Detector(model, info.categories, info.image_size, conf=0.001, device="cpu")
    metrics = evaluate_model(detector, images, workers=0).metrics
    card = (REPOSITORY / "weights" / "README.md").read_text()
    assert f"| test | 72 | {metrics['AP']:.3f} | {metrics['AP50']:.3f} | {metrics['AP75']:.3f} |" in card
