"""The benchmark of runtimes: its figures belong to the files that they name, and what can't be measured is told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from lively_model import calmed, lively_model
from PIL import Image

from detector.benchmarking import benchmark as module
from detector.cli import main
from detector.config import EvaluateConfig
from detector.demo.scenes import make_dataset
from detector.evaluation.evaluate import evaluate
from detector.formats.table import FORMATS, Variant
from detector.inference.detector import Detector
from detector.structures import Categories
from detector.weights.files import WeightsInfo, save_weights

pytestmark = pytest.mark.slow

SIZE = 64


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset, and weights that find some of what its annotations name, and other things."""
    folder = tmp_path_factory.mktemp("benchmark")
    make_dataset(folder / "data", train=3, val=3, test=4)
    file = folder / "data/annotations/instances_test.json"
    content = json.loads(file.read_text())
    ids, names = zip(*((c["id"], c["name"]) for c in content["categories"]), strict=True)
    model, categories = calmed(lively_model(len(ids))), Categories(ids, names)
    save_weights(folder / "w.safetensors", model, WeightsInfo("yolo11n", categories, SIZE, {}, {}, "none"))
    detector = Detector(model, categories, SIZE, device="cpu")
    content["annotations"] = [
        {"image_id": image["id"], "category_id": ids[label], "bbox": [x, y, right - x, low - y], "iscrowd": 0}
        for image in content["images"]
        for found in [detector(folder / "data/test" / image["file_name"])]
        for (x, y, right, low), label in list(zip(found.boxes.tolist(), found.labels.tolist(), strict=True))[::2]
    ]
    for number, annotation in enumerate(content["annotations"]):
        annotation |= {"id": number + 1, "area": annotation["bbox"][2] * annotation["bbox"][3]}
    file.write_text(json.dumps(content))
    return folder / "data", folder / "w.safetensors"


@pytest.mark.usefixtures("no_shape_checks")
def test_each_runtime_has_its_figures(
    drawn: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, weights = drawn
    variants = (Variant("TorchScript"), Variant("impossible", "int8"))
    monkeypatch.setattr(module, "FORMATS", {"torchscript": replace(FORMATS["torchscript"], variants=variants)})
    out = tmp_path / "out"
    arguments = [f"--weights={weights}", f"--data={data}", "--split=test", f"--out={out}", "--images=2", "--rounds=2"]
    assert main(["benchmark", *arguments, "--threads=1"]) == 0
    report = json.loads((out / "benchmark.json").read_text())
    eager, script = report["runtimes"]
    assert eager["bytes"] == weights.stat().st_size
    assert list(report["skipped"]) == ["impossible"]
    assert report["skipped"]["impossible"].startswith("precision: ")
    ap = evaluate(
        EvaluateConfig(weights=str(weights), data=str(data), split="test", out=str(tmp_path / "e"), device="cpu")
    )
    assert 0.05 < ap["AP"] < 0.95
    assert eager["ap"] == pytest.approx(ap["AP"], abs=1e-6)
    assert script["ap"] == pytest.approx(eager["ap"], abs=1e-3)
    for figures in (eager, script):
        assert 0 < figures["network_ms"] <= figures["network_p95_ms"]
        assert 0 < figures["latency_ms"] <= figures["latency_p95_ms"]
        assert figures["start_seconds"] > figures["latency_ms"] / 1e3
        assert figures["images_per_second"] > 0
        assert 50 < figures["memory_mib"] < 10_000
        assert figures["batch"] == 2
    with Image.open(out / "benchmark.png") as image:
        assert image.size[0] > 500
    printed = capsys.readouterr().out
    assert "TorchScript" in printed
    assert "skipped: impossible" in printed


@pytest.mark.usefixtures("no_shape_checks")
def test_an_exported_file_is_measured_alone(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    data, weights = drawn
    file = tmp_path / "file.torchscript"
    assert main(["export", f"--weights={weights}", "--format=torchscript", f"--out={file}"]) == 0
    out = tmp_path / "out"
    arguments = [f"--weights={file}", f"--data={data}", "--split=test", f"--out={out}", "--images=1", "--rounds=1"]
    assert main(["benchmark", *arguments]) == 0
    report = json.loads((out / "benchmark.json").read_text())
    (row,) = report["runtimes"]
    assert (row["name"], row["bytes"]) == ("file.torchscript", file.stat().st_size)
    assert row["ap"] > 0.05
    assert report["skipped"] == {}


def test_a_split_without_objects_is_refused(
    drawn: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, weights = drawn
    data = tmp_path / "data"
    make_dataset(data, train=3, val=3, test=3)
    file = data / "annotations/instances_test.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    arguments = [f"--weights={weights}", f"--data={data}", "--split=test", f"--out={tmp_path / 'out'}"]
    assert main(["benchmark", *arguments]) == 2
    assert f"{file}: names no object" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_that_can_t_be_used_end_it(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    data, _ = drawn
    arguments = [f"--weights={tmp_path / 'none'}", f"--data={data}", f"--out={tmp_path / 'out'}"]
    assert main(["benchmark", *arguments]) == 2
    assert not (tmp_path / "out").exists()


def test_the_size_is_that_of_the_files_that_belong_together(tmp_path: Path) -> None:
    for name in ("a.xml", "a.onnx"):
        (tmp_path / name).write_bytes(b"12")
    (tmp_path / "a.bin").write_bytes(b"345")
    assert module.size_of(tmp_path / "a.xml") == 5
    assert module.size_of(tmp_path / "a.onnx") == 2


@pytest.mark.parametrize("name", ["images", "rounds", "threads"])
def test_numbers_below_one_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--weights=w", "--data=d", "--out=o", f"--{name}=0"]) == 2
    assert name in capsys.readouterr().err
