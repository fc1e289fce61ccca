"""Two weights on one split: no difference from oneself, the paired interval, and the page."""

import json
from pathlib import Path
from typing import Any

import pytest
from lively_model import lively_model
from shaken import shaken
from test_report import Page

from detector.cli import main
from detector.config import CompareConfig
from detector.data.coco import CocoDataset
from detector.data.layouts import find_split
from detector.demo.scenes import make_dataset
from detector.demo.shapes import CATEGORIES
from detector.errors import ConfigError, WeightsError
from detector.evaluation.bootstrap import draw_images
from detector.evaluation.evaluate import Evaluation, SplitDetections, score
from detector.inference.detector import Detector
from detector.reporting.compare import compare, differences, pairs, verdict
from detector.structures import Categories
from detector.weights.files import WeightsInfo, save_weights

IDS = tuple(category_id for category_id, *_ in CATEGORIES)
NAMES = tuple(name for _, name, *_ in CATEGORIES)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=1, train=3, val=9, test=3)
    return root


@pytest.fixture(scope="module")
def dataset(scenes: Path) -> CocoDataset:
    return CocoDataset.load(find_split(scenes, "val"))


def write_weights(path: Path, names: tuple[str, ...] = NAMES, side: int = 96) -> Path:
    info = WeightsInfo("yolo11n", Categories(IDS[: len(names)], names), side, {}, {}, "CC0-1.0")
    save_weights(path, lively_model(len(names)), info)
    return path


def test_the_difference_is_that_of_both_metrics_and_its_interval_is_paired(dataset: CocoDataset) -> None:
    first, second = shaken(dataset, 0.3, 0), shaken(dataset, 0.05, 1)
    report = differences(dataset, first, second)
    one, other = (score([SplitDetections(found)], dataset, 0).metrics for found in (first, second))
    for name, values in report["metrics"].items():
        assert values["first"] == pytest.approx(one[name], abs=1e-12)
        assert values["second"] == pytest.approx(other[name], abs=1e-12)
        assert values["difference"] == pytest.approx(other[name] - one[name], abs=1e-12)
    assert report["metrics"]["AP"]["low"] > 0.1
    assert verdict(report["metrics"]["AP"]) == "second is better"
    assert report["per_category"].keys() == set(NAMES)
    turned = differences(dataset, second, first)["metrics"]["AP"]
    assert turned["low"] == pytest.approx(-report["metrics"]["AP"]["high"], abs=1e-12)
    assert verdict(turned) == "first is better"


def test_a_resample_is_the_same_for_both(dataset: CocoDataset) -> None:
    found = shaken(dataset, 0.2, 0)
    report = differences(dataset, found, found)
    for values in (*report["metrics"].values(), *report["per_category"].values()):
        assert (values["difference"], values["low"], values["high"]) == (0, 0, 0)
        assert verdict(values) == "may be chance"
    assert (draw_images(len(dataset)) == draw_images(len(dataset))).all()


def test_images_are_sorted_by_what_the_second_gains(dataset: CocoDataset) -> None:
    first, second = shaken(dataset, 0.3, 0), shaken(dataset, 0.3, 1)
    gains = [pair.gain() for pair in pairs(dataset, first, second)]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 0 > gains[-1]
    assert all(pair.first.image.index == pair.second.image.index for pair in pairs(dataset, first, second))


@pytest.mark.slow
def test_the_command_writes_a_page(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of detectors that find some of the objects."""

    def found(detector: Detector, dataset: CocoDataset, *_options: Any) -> Evaluation:
        return score([SplitDetections(shaken(dataset, 0.06, detector.image_size))], dataset, 0)

    monkeypatch.setattr("detector.reporting.compare.evaluate_model", found)
    first, second = write_weights(tmp_path / "<b>a.safetensors"), write_weights(tmp_path / "b.safetensors", side=160)
    out = tmp_path / "out"
    options = ["--data", str(scenes), "--out", str(out), "--device", "cpu", "--workers", "0"]
    assert main(["compare", str(first), str(second), *options]) == 0
    report = json.loads((out / "compare.json").read_text())
    assert (report["first"], report["second"], report["images"]) == (str(first), str(second), 9)
    page = Page(out / "compare.html")
    assert str(first) in page.text
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}
    images = page.images()
    assert len(images) == len(list((out / "images").iterdir())) > 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("APsmall", "difference", *NAMES))
    assert main(["compare", str(first), str(first), *options]) == 0
    assert "There is none." in Page(out / "compare.html").text


def test_weights_of_other_classes_are_refused(scenes: Path, tmp_path: Path) -> None:
    first = write_weights(tmp_path / "a.safetensors")
    second = write_weights(tmp_path / "b.safetensors", NAMES[:2])
    with pytest.raises(WeightsError, match=r"have different classes \(5 and 2, or in another order\)"):
        compare(CompareConfig(first=str(first), second=str(second), data=str(scenes), out=str(tmp_path / "out")))
    with pytest.raises(ConfigError, match="conf: invalid value 2"):
        CompareConfig(first="a", second="b", data="d", conf=2)
