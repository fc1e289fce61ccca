"""Broken inputs on the real command line: one line that names file, field and remedy, exit code 2, nothing half-written."""

import dataclasses
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from command_line import REPOSITORY, run, start
from PIL import Image
from safetensors.torch import load_file, save_file

from detector.cli import main
from detector.config import TrainConfig
from detector.errors import WriteError
from detector.models.catalog import create_model
from detector.structures import Categories
from detector.training.resume import flat
from detector.utils.fileio import atomic_write
from detector.weights.files import WeightsInfo, save_weights

SMALL = ["--epochs=1", "--image_size=32", "--batch_size=4", "--workers=0"]
IMAGES = 4


class Good(NamedTuple):
    """What the broken inputs are made from."""

    data: Path
    weights: Path


def make_data(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).mkdir()
        for i in range(IMAGES):
            Image.new("RGB", (64, 64), (60 * i, 100, 50)).save(root / split / f"{i}.jpg")
        content = {
            "images": [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 64} for i in range(IMAGES)],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [8, 8, 40, 40], "area": 1600, "iscrowd": 0}
                for i in range(IMAGES)
            ],
            "categories": [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    root = tmp_path_factory.mktemp("good")
    make_data(root / "data")
    info = WeightsInfo("yolo11n", Categories((1, 2), ("circle", "square")), 32, {}, {}, "CC0-1.0")
    save_weights(root / "weights.safetensors", create_model("yolo11n", 2), info)
    return Good(root / "data", root / "weights.safetensors")


def the_line(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line of a refusal, without `error: `."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


# ---- how the inputs are broken; each function gets the case's own folder and answers with the arguments

Build = Callable[[Path, Good], list[str]]


def train(*options: str) -> Build:
    return lambda place, good: ["train", "--data", str(good.data), "--out", str(place / "out"), *SMALL, *options]


def evaluate(*options: str) -> Build:
    return lambda place, good: [
        *("evaluate", "--data", str(good.data), "--weights", str(good.weights), "--out", str(place / "out")),
        *("--workers", "0", *options),
    ]


def infer(*options: str, source: str = "{data}/val") -> Build:
    return lambda place, good: [
        *("infer", source.format(data=good.data), "--weights", str(good.weights), "--out", str(place / "out")),
        *options,
    ]


def in_place(build: Build) -> Build:
    """`{place}` in the arguments stands for the case's folder."""
    return lambda place, good: [argument.replace("{place}", str(place)) for argument in build(place, good)]


def with_file(name: str, content: str | bytes, build: Build) -> Build:
    def prepared(place: Path, good: Good) -> list[str]:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return in_place(build)(place, good)

    return prepared


def with_data(change: Callable[[Path], object], build: Build) -> Build:
    """`build` on a copy of the dataset that `change` has broken."""

    def prepared(place: Path, good: Good) -> list[str]:
        shutil.copytree(good.data, place / "data")
        change(place / "data")
        return in_place(build)(place, good._replace(data=place / "data"))

    return prepared


def with_json(change: Callable[[dict[str, Any]], object], build: Build, split: str = "train") -> Build:
    def rewrite(data: Path) -> None:
        path = data / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return with_data(rewrite, build)


def with_weights(change: Callable[[Path, Path], object], build: Build) -> Build:
    """`build` with the weights that `change` makes from the good ones: change(good file, new file)."""

    def prepared(place: Path, good: Good) -> list[str]:
        change(good.weights, place / "weights.safetensors")
        return build(place, good._replace(weights=place / "weights.safetensors"))

    return prepared


RUN = TrainConfig(image_size=32, workers=0)


def checkpoint() -> bytes:
    """As much of last.pt as is looked at before the settings are compared."""
    file = io.BytesIO()
    torch.save({"provenance": {"settings": flat(RUN)}}, file)
    return file.getvalue()


def with_run(last: bytes | None, build: Build) -> Build:
    """`build` beside a folder {place}/run that a training has left, with `last` as its checkpoint."""

    def prepared(place: Path, good: Good) -> list[str]:
        (place / "run").mkdir()
        config = dataclasses.replace(RUN, data=str(good.data), out=str(place / "run"))
        (place / "run" / "config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(config)))
        shutil.copy(good.weights, place / "run" / "last.safetensors")
        if last is not None:
            (place / "run" / "last.pt").write_bytes(last)
        return in_place(build)(place, good)

    return prepared


def truncated(data: Path, split: str = "train") -> None:
    path = data / split / "1.jpg"
    path.write_bytes(path.read_bytes()[:300])


CONFIG = ["--config", "{place}/mine.yaml"]


def just(*arguments: str) -> Build:
    return in_place(lambda _place, _good: list(arguments))


# id: how to break it, and what the line must hold: the file, the field, the remedy
CASES: dict[str, tuple[Build, tuple[str, ...]]] = {
    # the dataset
    "data-folder-missing": (train("--data=/nowhere"), ("/nowhere", "does not exist", "correct --data")),
    "data-of-no-known-layout": (
        with_file("empty/readme.txt", "", train("--data={place}/empty")),
        ("{place}/empty: no train split", "annotations/instances_train*.json", "--paths.train_json"),
    ),
    "split-missing": (evaluate("--split=test"), ("no test split", "splits found: train, val", "--paths.test_json")),
    "image-named-but-absent": (
        with_data(lambda data: (data / "train" / "2.jpg").unlink(), train()),
        ("1 of 4 images", "instances_train.json", "'2.jpg'", "correct file_name"),
    ),
    "not-json": (
        with_file("a.json", '{"images": [', train("--paths.train_json={place}/a.json", "--paths.train_images=.")),
        ("{place}/a.json", "not JSON", "line 1, column 13", "export it again"),
    ),
    "json-without-categories": (
        with_json(lambda content: content.pop("categories"), train()),
        ("instances_train.json", "no key 'categories'", "export it again in the COCO format"),
    ),
    "unknown-image-id": (
        with_json(lambda content: content["annotations"][2].update(image_id=77), train()),
        ("instances_train.json", "annotations[2].image_id is 77", "correct it, or remove"),
    ),
    "unknown-category-id": (
        with_json(lambda content: content["annotations"][1].update(category_id=9), evaluate(), split="val"),
        ("instances_val.json", "annotations[1].category_id is 9", "correct it, or remove"),
    ),
    "box-of-three-numbers": (
        with_json(lambda content: content["annotations"][3].update(bbox=[1, 2, 3]), train()),
        ("instances_train.json", "annotations[3].bbox is [1, 2, 3]", "must be 4 finite numbers"),
    ),
    "file-name-leaves-the-folder": (
        with_json(lambda content: content["images"][0].update(file_name="../val/0.jpg"), train()),
        ("instances_train.json", "images[0].file_name", "'../val/0.jpg'", "relative to that folder"),
    ),
    # images
    "empty-image-in-evaluate": (
        with_data(lambda data: (data / "val" / "3.jpg").write_bytes(b""), evaluate()),
        ("1 of 4 images", "val/3.jpg", "empty (0 bytes)", "--max_unreadable"),
    ),
    "no-such-source": (infer(source="{data}/vall"), ("/vall: no such file or folder", "name an image file")),
    "glob-without-match": (infer(source="{data}/val/*.png"), ("/val/*.png", "holds no image", "png")),
    # weights
    "weights-missing": (evaluate("--weights=/nowhere.safetensors"), ("--weights", "/nowhere.safetensors", "best.saf")),
    "weights-are-a-checkpoint": (
        with_weights(lambda old, new: torch.save(load_file(old), new), infer()),
        ("{place}/weights.safetensors", "not a safetensors file", "give best.safetensors of a run"),
    ),
    "weights-are-text-in-export": (
        with_file("w.txt", "hello", just("export", "--weights", "{place}/w.txt", "--out", "{place}/out.onnx")),
        ("{place}/w.txt", "not a safetensors file", "give best.safetensors of a run"),
    ),
    "weights-without-metadata": (
        with_weights(lambda old, new: save_file(load_file(old), new), infer()),
        ("{place}/weights.safetensors", "metadata", "format", "give best.safetensors of a run"),
    ),
    "weights-of-other-classes": (
        with_json(lambda content: content["categories"][1].update(name="cube"), evaluate(), split="val"),
        ("instances_val.json", "id 2 is 'cube' here and 'square' there", "other weights"),
    ),
    "weights-of-another-model": (
        lambda place, good: [*train("--model=yolo11m")(place, good), f"--weights={good.weights}"],
        ("--weights", "weights.safetensors is for yolo11n, not yolo11m", "add --model yolo11n"),
    ),
    "weights-of-an-unknown-name": (
        infer("--weights=yolo11n-blood"),
        ("--weights", "no file yolo11n-blood;", "names of shipped weights are:"),
    ),
    "unknown-module-to-freeze": (
        train("--train.freeze=[stage22]"),
        ("train.freeze", "'stage22'", "did you mean one of stage2"),
    ),
    "unknown-class": (infer("--classes=circle,sqare"), ("classes", "'sqare'", "circle, square")),
    # the configuration
    "unknown-option": (train("--train.epoch=3"), ("no option train.epoch;", "did you mean epochs?")),
    "unknown-key-in-file": (
        with_file("mine.yaml", "train:\n  epoch: 3\n", train(*CONFIG)),
        ("{place}/mine.yaml", "no option train.epoch;", "did you mean epochs?"),
    ),
    "not-yaml": (with_file("mine.yaml", "train: [1\n", train(*CONFIG)), ("{place}/mine.yaml", "not YAML", "line 2")),
    "config-missing": (train("--config=/nowhere.yaml"), ("--config", "/nowhere.yaml", "coco, finetune")),
    "config-is-a-list": (with_file("mine.yaml", "- 1\n", train(*CONFIG)), ("{place}/mine.yaml", "no options", "out:")),
    "wrong-type": (train("--epochs=many"), ("epochs: invalid value 'many'", "an integer")),
    "wrong-type-in-file": (
        with_file("mine.yaml", "conf: high\n", evaluate(*CONFIG)),
        ("{place}/mine.yaml", "conf", "'high'", "a number"),
    ),
    "empty-value-in-file": (
        with_file("mine.yaml", "epochs:\n", train(*CONFIG)),
        ("{place}/mine.yaml", "epochs has no value", "leave it out"),
    ),
    "no-such-choice": (train("--train.optimizer=adam"), ("train.optimizer", "'adam'", "one of sgd, adamw")),
    "out-of-range": (train("--image_size=100"), ("image_size: invalid value 100", "multiple of 32")),
    "too-many-workers": (train("--workers=100000"), ("workers: invalid value 100000", "a number from -1 to 256")),
    "out-of-range-in-file": (
        with_file("mine.yaml", "conf: 3\n", infer(*CONFIG)),
        ("{place}/mine.yaml", "conf", "3", "from 0 to 1"),
    ),
    "option-without-value": (just("infer", "a.jpg", "--weights"), ("--weights", "no value")),
    "options-missing": (just("evaluate", "--data", "."), ("--weights, --out", "--help")),
    "unknown-command": (just("evaluate", "stray", "--weights=a", "--out={place}/out"), ("'stray'", "--help")),
    "position-by-name": (just("doctor", "--data=x"), ("--data: give the value alone, without --data",)),
    "annotations-only-with-weights": (
        just("doctor", "x", "--annotations_only", "--weights=y"),
        ("annotations_only: invalid value True", "no --against or --weights beside it"),
    ),
    "doctor-of-nothing": (just("doctor"), ("there is no dataset", "give its folder, or --paths.train_json")),
    "unknown-model": (train("--model=yolo12n"), ("--model", "'yolo12n'", "yolo11n, yolo11s")),
    "unknown-transform": (
        train('--augment.transforms=[{"HorizontalFlipp": {"p": 1}}]'),
        ("augment.transforms[0]", "'HorizontalFlipp'", "did you mean HorizontalFlip?"),
    ),
    "no-such-device": (train("--device=cuda:99"), ("device", "cuda:99", "auto or cpu")),
    # the folder of the run
    "resume-of-no-run": (just("train", "--resume={place}"), ("--resume", "{place}/config.yaml", "--out")),
    "resume-with-other-options": (
        with_run(checkpoint(), just("train", "--resume={place}/run", "--epochs=3")),
        ("--resume", "epochs was 100, is 3", "leave them as they were, or start a new run"),
    ),
    "resume-of-a-corrupt-checkpoint": (
        with_run(b"PK\3\4 and no more", just("train", "--resume={place}/run")),
        ("{place}/run/last.pt", "not a readable checkpoint", "start a new run"),
    ),
    "resume-without-checkpoint": (
        with_run(None, just("train", "--resume={place}/run")),
        ("{place}/run/last.pt", "no checkpoint", "--resume"),
    ),
    "out-holds-a-run": (
        with_run(b"", train("--out={place}/run")),
        ("--out", "{place}/run already holds a run", "--resume {place}/run"),
    ),
    "out-is-a-file": (with_file("out", "mine", train()), ("--out", "{place}/out is a file", "another folder")),
}


def files_in(folder: Path) -> dict[Path, bytes]:
    """Every folder (as b"") and file below `folder`."""
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_broken_input(name: str, good: Good, tmp_path: Path) -> None:
    arguments, fragments = CASES[name][0](tmp_path, good), CASES[name][1]
    before = files_in(tmp_path)
    line = the_line(run(arguments))
    for fragment in fragments:
        assert fragment.format(place=tmp_path) in line
    assert files_in(tmp_path) == before  # nothing written, nothing lost


def test_unknown_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "detector.cli", "trian"], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert "'trian'; choose one of train, preview_augment" in the_line(done)


@pytest.mark.slow
def test_a_notebook_of_another_environment_is_no_hindrance(tmp_path: Path) -> None:
    """Its MPLBACKEND names a package that may not be installed beside the command that a cell starts."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "detector",
            "infer",
            str(tmp_path / "no.jpg"),
            "--weights",
            "yolo11n-bccd",
            "--out",
            "x",
        ],
        cwd=REPOSITORY,
        env={**os.environ, "MPLBACKEND": "module://no_such_package.backend_inline"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "no.jpg" in the_line(done)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from detector import cli

    def broken(_config: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setitem(cli.COMMANDS, "demo", cli.COMMANDS["demo"]._replace(run=broken))
    with pytest.raises(ZeroDivisionError):
        cli.main(["demo"])


@pytest.mark.slow
def test_a_damaged_image_stops_training_unless_allowed(good: Good, tmp_path: Path) -> None:
    """The advice in the refusal works as it stands: in the same folder, with the share it names."""
    arguments = with_data(truncated, train())(tmp_path, good)
    refused = the_line(run(arguments))
    image = str(tmp_path / "data" / "train" / "1.jpg")
    assert refused.startswith("1 of 4 training images can't be read")
    assert image in refused
    advice = re.search(r"--max_unreadable [\d.]+", refused)
    assert advice is not None
    assert not list((tmp_path / "out").glob("*.safetensors"))
    done = run([*arguments, *advice[0].split()])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count(image) == 1
    assert "skipped: 1 of 4 training images" in done.stdout
    assert (tmp_path / "out" / "best.safetensors").is_file()


@pytest.mark.slow
def test_a_damaged_image_is_left_out_of_evaluate_if_allowed(good: Good, tmp_path: Path) -> None:
    allowed = with_data(lambda data: truncated(data, "val"), evaluate("--max_unreadable=0.5"))
    done = run(allowed(tmp_path, good))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"skipped: {tmp_path / 'data' / 'val' / '1.jpg'}: this image can't be read" in done.stdout
    assert "skipped: 1 of 4 images" in done.stdout
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["images"] == 3


def test_a_refusal_in_a_worker_is_one_line(good: Good, tmp_path: Path) -> None:
    crop = '--augment.transforms=[{"RandomCrop": {"height": 16, "width": 16}}]'
    line = the_line(run(train(crop, "--workers=1")(tmp_path, good)))
    assert line.startswith("augment.transforms change the image's shape")
    assert line.endswith("leave out what crops or resizes")


# ---- no space left


def test_training_without_space_says_so_and_leaves_no_half_file(good: Good, tmp_path: Path) -> None:
    arguments = train()(tmp_path, good)
    line = the_line(run(arguments, largest_file=1_000_000))
    assert line.startswith(f"{tmp_path / 'out' / 'last.pt'}: can't be written")
    assert "free some space" in line
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.yaml", "environment.json"}


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["torchscript", "safetensors"])
def test_export_without_space_leaves_nothing(good: Good, tmp_path: Path, format_: str) -> None:
    out = tmp_path / f"model.{format_}"
    export = ["export", "--weights", str(good.weights), "--format", format_, "--out", str(out)]
    line = the_line(run(export, largest_file=1_000_000))
    assert f"{out}: can't be written" in line
    assert not list(tmp_path.iterdir())


def test_no_space_left_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(WriteError, match=r"metrics\.json: can't be written \(No space left on device\); free some sp"):
        atomic_write(path, half)
    assert {entry: entry.read_text() for entry in tmp_path.iterdir()} == {path: "old"}


# ---- Ctrl-C


def interrupted(arguments: list[str], metrics: Path) -> "subprocess.CompletedProcess[str]":
    """Press Ctrl-C, which reaches the workers too, when `metrics` has two epochs."""
    process = start(arguments)
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 2:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.slow
def test_ctrl_c_keeps_the_last_checkpoint_and_says_how_to_resume(good: Good, tmp_path: Path) -> None:
    out, epochs = tmp_path / "out", 12
    long = train(f"--epochs={epochs}", "--workers=1")(tmp_path, good)
    line = the_line(interrupted(long, out / "metrics.jsonl"))
    assert line.endswith(f"continue with: detector train --resume {out}")
    assert f"interrupted after {torch.load(out / 'last.pt', weights_only=True)['epoch']} of {epochs} epochs" in line
    assert not [path for path in out.iterdir() if path.name.startswith(".")]

    resumed = run(["train", "--resume", str(out)])
    assert (resumed.returncode, resumed.stderr) == (0, "")
    rows = [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))


@pytest.mark.parametrize("package", ["fastapi", "prometheus_client", "python_multipart", "uvicorn"])
def test_a_server_without_its_packages_names_the_extra(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = ["fastapi", "prometheus_client", "python_multipart", "uvicorn"]
    for name in [name for name in sys.modules if name.startswith("detector.serving")]:
        monkeypatch.delitem(sys.modules, name)
    for name in needed:  # those before it are there, whatever is installed
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    assert main(["serve", "--weights=yolo11n-bccd"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: detector serve: needs the package {package}: pip install 'attention-detector[serve]'"


def test_a_page_without_its_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("detector.ui")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)  # type: ignore[arg-type]
    assert main(["ui", "--weights=yolo11n-bccd"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: detector ui: needs the package gradio: pip install 'attention-detector[ui]'"
