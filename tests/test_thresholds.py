"""The lowest score of each class, from an evaluation into the weights, and from there into every detector."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lively_model import lively_model
from shaken import shaken
from test_inference import overlap, random_predictions

from detector.cli import main
from detector.config import DEFAULT_CONF, EvaluateConfig
from detector.data.coco import CocoDataset
from detector.demo.scenes import make_dataset
from detector.demo.shapes import CATEGORIES
from detector.errors import ConfigError, WeightsError
from detector.evaluation.evaluate import Evaluation, SplitDetections, evaluate, score
from detector.inference.detector import Detector
from detector.models.postprocess import select
from detector.structures import Categories, Detections
from detector.weights.files import WeightsInfo, load_weights, save_weights, write_thresholds
from detector.weights.shipped import FOLDER, own_weights

SIDE = 96
THRESHOLDS = (0.9, None, 0.3, 0.05, 1.0)


IDS = tuple(category_id for category_id, *_ in CATEGORIES)
NAMES = tuple(name for _, name, *_ in CATEGORIES)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "scenes", seed=1, train=3, val=5, test=3)
    return tmp_path / "scenes"


@pytest.fixture
def sighted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that finds some of the objects, whatever the network."""

    def found(_detector: Detector, dataset: CocoDataset, *_options: Any) -> Evaluation:
        return score([SplitDetections(shaken(dataset, 0.06, 0))], dataset, 0)

    monkeypatch.setattr("detector.evaluation.evaluate.evaluate_model", found)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    categories = Categories(IDS, NAMES)
    save_weights(path, lively_model(len(NAMES)), WeightsInfo("yolo11n", categories, SIDE, {}, {}, "CC0-1.0"))
    return path


def tensors(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_thresholds_go_into_the_metadata_and_nothing_else_changes(weights: Path) -> None:
    before, (_, info) = tensors(weights), load_weights(weights)
    assert info.thresholds is None
    assert info.class_conf is None
    for thresholds in (THRESHOLDS, (0.5, 0.25, None, 0.125, 1.0)):
        write_thresholds(weights, thresholds)
        model, changed = load_weights(weights)
        assert changed.thresholds == thresholds
        assert {**vars(changed), "thresholds": None} == vars(info)
        assert tensors(weights) == before
        assert int.from_bytes(weights.read_bytes()[:8], "little") % 8 == 0
    written = weights.read_bytes()
    save_weights(weights, model, changed)
    assert load_weights(weights)[1] == changed
    assert len(written) == len(weights.read_bytes())


@pytest.mark.parametrize(
    "value",
    ["{}", "[0.5]", "[0.5, 0.5, 0.5, 0.5, 2]", '[0.5, 0.5, 0.5, 0.5, "1"]', "[NaN, 0, 0, 0, 0]", "[true, 0, 0, 0, 0]"],
)
def test_thresholds_that_are_none_are_refused(weights: Path, value: str) -> None:
    _, info = load_weights(weights)
    with pytest.raises(ValueError, match="thresholds"):
        WeightsInfo.from_metadata(info.to_metadata() | {"thresholds": value})


def by_class(found: Detections, lowest: list[float]) -> Detections:
    return found[found.scores >= torch.tensor(lowest)[found.labels]]


def test_a_detector_takes_those_of_the_weights_where_no_conf_is_given(weights: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    every = Detector.load(weights, conf=0.0, max_detections=3000, device="cpu")(image)
    write_thresholds(weights, THRESHOLDS)
    lowest = [DEFAULT_CONF if each is None else each for each in THRESHOLDS]
    detector = Detector.load(weights, device="cpu", max_detections=3000)
    expected = by_class(every, lowest)
    found = detector(image)
    assert detector.conf == 0.05
    assert 5 < len(found) < len(every)
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    assert len(set(found.labels.tolist())) > 2
    detector.max_detections = 4
    assert torch.equal(detector(image).scores, expected.scores[:4])
    assert (Detector.load(weights, conf=0.4, device="cpu")(image).scores >= 0.4).all()
    detector.conf = 0.4
    detector.max_detections = 3000
    assert torch.equal(detector(image).scores, every.scores[every.scores >= 0.4])


@pytest.mark.parametrize("seed", range(4))
def test_a_weak_box_of_a_strict_class_suppresses_nothing(seed: int) -> None:
    predictions = random_predictions(seed, anchors=200, classes=3)
    lowest = torch.tensor([0.9, 0.5, 0.7])
    (found,) = select(predictions, 0.5, 0.5, 1000, class_conf=lowest)
    boxes, scores = predictions.boxes[0].double().tolist(), predictions.scores[0]
    kept: list[tuple[int, int]] = []
    for anchor in scores.amax(dim=1).argsort(descending=True).tolist():
        label = int(scores[anchor].argmax())
        strong = scores[anchor, label] >= lowest[label]
        if strong and all(label != other or overlap(boxes[anchor], boxes[rival]) <= 0.5 for rival, other in kept):
            kept.append((anchor, label))
    assert found.anchors is not None
    assert list(zip(found.anchors.tolist(), found.labels.tolist(), strict=True)) == kept
    assert len(kept) > 20


@pytest.mark.usefixtures("sighted")
def test_evaluate_writes_the_best_ones_and_keeps_its_own_conf(
    scenes: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"weights": str(weights), "data": str(scenes), "device": "cpu", "workers": 0}
    first = evaluate(EvaluateConfig(out=str(tmp_path / "a"), thresholds="best", explain=True, **given))
    printed = capsys.readouterr().out
    explained = json.loads((tmp_path / "a" / "explain.json").read_text())
    thresholds = load_weights(weights)[1].thresholds
    assert thresholds is not None
    assert list(thresholds) == [each["confidence"] for each in explained["per_category"].values()]
    assert f"written into {weights}" in printed
    assert NAMES[0] in printed
    again = evaluate(EvaluateConfig(out=str(tmp_path / "b"), **given))
    assert again == first


@pytest.mark.usefixtures("sighted")
def test_what_explain_writes(scenes: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--weights", str(weights), "--data", str(scenes), "--out", str(out), "--workers", "0"]
    assert main(["evaluate", *arguments, "--explain", "--device", "cpu"]) == 0
    metrics, explained = (json.loads((out / f"{name}.json").read_text()) for name in ("metrics", "explain"))
    for name, values in explained["sizes"].items():
        assert values["AP"] == pytest.approx(metrics[name], abs=1e-12)
        assert values["low"] <= values["AP"] <= values["high"]
    assert explained["errors"]["AP50"] == pytest.approx(metrics["AP50"], abs=1e-12)
    for name, values in explained["per_category"].items():
        assert values["AP"] == pytest.approx(metrics["per_category"][name]["AP"], abs=1e-12)
    for kind, each in explained["errors"].items():
        if kind != "AP50":
            assert each["dAP50"] >= -1e-12
            assert each["count"] == sum(of_class["errors"][kind] for of_class in explained["per_category"].values())
    assert sum(each["detections"] for each in explained["calibration"]["bins"]) > 10
    assert 0.1 < metrics["AP"] < 0.9
    assert {path.name for path in out.iterdir()} == {
        "metrics.json",
        "detections.json",
        "explain.json",
        "errors.png",
        "reliability.png",
    }
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("dAP50", "localization", "ECE", "95 % interval", *NAMES))


def test_a_split_without_objects_is_explained(scenes: Path, weights: Path, tmp_path: Path) -> None:
    path = scenes / "annotations" / "instances_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    before = weights.read_bytes()
    arguments = ["--weights", str(weights), "--data", str(scenes), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main(["evaluate", *arguments, "--explain", "--device", "cpu", "--thresholds", "best"]) == 0
    explained = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert explained["errors"]["AP50"] is None
    assert explained["errors"]["background"]["dAP50"] is None
    assert explained["errors"]["background"]["count"] > 0
    assert weights.read_bytes() == before


def test_weights_that_are_not_the_users_stay_as_they_are(scenes: Path, weights: Path, tmp_path: Path) -> None:
    shipped = FOLDER / "yolo11n-bccd.safetensors"
    (tmp_path / "link").symlink_to(shipped)
    for name in ("yolo11n-bccd", str(shipped), str(tmp_path / "link")):
        with pytest.raises(WeightsError, match="have a checksum and stay as they are; copy"):
            own_weights(name)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match="an exported file can't be changed; give the weights it was made from"):
        own_weights(str(tmp_path / "model.onnx"))
    with pytest.raises(WeightsError, match="there is no file"):
        own_weights(str(tmp_path / "none"))
    assert own_weights(str(weights)) == weights
    with pytest.raises(
        ConfigError, match=re.escape("thresholds: invalid value 'best': expected no --classes beside it")
    ):
        EvaluateConfig(weights="w", out="o", data=str(scenes), thresholds="best", classes="cat")
