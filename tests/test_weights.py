"""Weights files: what goes in comes out, what is no weights file is refused in one line, nothing half-written stays."""

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from detector.errors import DetectorError, WeightsError
from detector.models.base import DetectionModel
from detector.models.catalog import create_model
from detector.structures import Categories
from detector.utils.fileio import atomic_write, write_json
from detector.weights.files import WeightsInfo, load_weights, save_weights
from detector.weights.published.names import from_published, to_published

INFO = WeightsInfo(
    model="yolo11n",
    categories=Categories((3, 7, 90), ("cat", "Hund – groß", '"quoted"')),
    image_size=320,
    training={"epoch": 4, "config": {"train": {"learning_rate": 0.001}, "weights": None}},
    metrics={"AP": 0.125, "APsmall": None},
    license="CC0-1.0",
)


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    torch.manual_seed(0)
    return create_model("yolo11n", 3)


@pytest.fixture(scope="module")
def saved(model: DetectionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_weights(path, model, INFO)
    return path


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    assert str(path) in text
    return text


def test_what_goes_in_comes_out(saved: Path, model: DetectionModel) -> None:
    loaded, info = load_weights(saved)
    assert info == INFO
    assert not loaded.training
    state, original = loaded.state_dict(), model.state_dict()
    assert state.keys() == original.keys()
    assert all(torch.equal(state[name], original[name]) and state[name].dtype == original[name].dtype for name in state)


def test_a_rectangle_comes_out_as_it_went_in(tmp_path: Path, model: DetectionModel) -> None:
    save_weights(tmp_path / "w.safetensors", model, replace(INFO, image_size=(64, 160)))
    assert load_weights(tmp_path / "w.safetensors")[1].image_size == (64, 160)


def test_a_width_of_its_own_comes_out_and_is_not_in_other_files(
    saved: Path, tmp_path: Path, model: DetectionModel
) -> None:
    path, info = tmp_path / "w.safetensors", replace(INFO, class_width=72)
    save_weights(path, create_model("yolo11n", 3, 72), info)
    wide, loaded = load_weights(path)
    assert (loaded, wide.head.class_width) == (info, 72)
    with safe_open(path, framework="pt") as file, safe_open(saved, framework="pt") as usual:
        assert file.metadata().keys() - usual.metadata().keys() == {"class_width"}
    save_weights(path, model, info)
    assert "head.class_branches.0.0.1.conv.weight has shape (64, 64, 1, 1), not (72, 64, 1, 1)" in refusal(path)


def test_the_file_explains_itself_without_this_program(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "detector-2"
    assert json.loads(metadata["class_names"]) == list(INFO.categories.names)
    assert json.loads(metadata["category_ids"]) == [3, 7, 90]
    assert json.loads(metadata["image_size"]) == 320


@pytest.mark.slow
def test_the_file_alone_makes_a_detector(saved: Path, tmp_path: Path) -> None:
    """In a process of its own, in an empty folder, from nothing but the file."""
    script = (
        "import sys, json, numpy, detector\n"
        "found = detector.Detector.load(sys.argv[1], conf=0.0, device='cpu')\n"
        "detections = found(numpy.zeros((40, 60, 3), dtype=numpy.uint8))\n"
        "print(json.dumps([found.categories.names, found.categories.ids, found.image_size, len(detections) > 0]))\n"
    )
    (tmp_path / "file").symlink_to(saved)
    command = [sys.executable, "-c", script, "file"]
    printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert json.loads(printed) == [list(INFO.categories.names), list(INFO.categories.ids), INFO.image_size, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_load_as_float32(saved: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in load_file(saved).items()}
    save_file(state, tmp_path / "half.safetensors", metadata=INFO.to_metadata())
    loaded, _ = load_weights(tmp_path / "half.safetensors")
    assert {t.dtype for t in loaded.state_dict().values()} == {torch.float32, torch.int64}
    assert torch.equal(loaded.state_dict()["stem.0.conv.weight"], state["stem.0.conv.weight"].float())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "not a safetensors file"), (b"hello", "not a safetensors file"), (b"PK\3\4" * 99, "not a safetensors file")],
    ids=["empty", "text", "zip"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    assert complaint in refusal(path)


def test_a_truncated_file_is_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(saved.read_bytes()[:-100])
    assert "not a safetensors file" in refusal(path)


def test_a_missing_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "none.safetensors")
    assert "there is no file" in refusal(tmp_path)


ODD_SIZES = ("0", "-32", "33", "true", "null", "320.0", "NaN", "8224", "32e9", f"{32 * 10**18}", "[320, 1e9]", "{}")


def without(metadata: dict[str, str], key: str) -> dict[str, str]:
    return {k: v for k, v in metadata.items() if k != key}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda _: None, "'format'"),
        (lambda m: m | {"format": "detector-1"}, "format is 'detector-1'"),
        (lambda m: without(m, "license"), "'license'"),
        (lambda m: m | {"model": "yolo11n"}, "lack"),  # no JSON
        (lambda m: m | {"model": '["yolo11n"]'}, "model is not a str"),
        (lambda m: m | {"image_size": '"large"'}, "image_size is neither"),
        (lambda m: m | {"image_size": "[320, 320, 3]"}, "image_size is neither"),
        *[(lambda m, size=size: m | {"image_size": size}, "image_size is neither") for size in ODD_SIZES],
        *[(lambda m, key=key: m | {key: "[" * 10**5}, "recursion") for key in ("class_names", "metrics", "training")],
        *[
            (lambda m, w=w: m | {"class_width": w}, "class_width is no number")
            for w in ("0", "4097", "true", "64.0", '"8"')
        ],
        (lambda m: m | {"class_width": "72"}, "not those of yolo11n with 3 classes"),
        (lambda m: m | {"category_ids": "[1, 2, 9223372036854775808]"}, "category_ids are not integers"),
        (lambda m: m | {"category_ids": "[true, 2, 3]"}, "category_ids are not integers"),
        (lambda m: m | {"category_ids": "5"}, "category_ids is not a list"),
        (lambda m: m | {"category_ids": "[1, 2]"}, "don't belong together"),
        (lambda m: m | {"category_ids": "[1, 2, 2]"}, "don't belong together"),
        (lambda m: m | {"category_ids": "[[1], 2, 3]"}, "category_ids are not integers"),
        (lambda m: m | {"category_ids": "[]", "class_names": "[]"}, "don't belong together"),
        (lambda m: m | {"model": '"yolo99n"'}, "this version knows yolo11n"),
        (lambda m: m | {"model": '"yolo11s"'}, "not those of yolo11s with 3 classes"),
        (lambda m: m | {"category_ids": "[1]", "class_names": '["a"]'}, "not those of yolo11n with 1 classes"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(
    saved: Path, tmp_path: Path, change: Callable[[dict[str, str]], dict[str, str] | None], complaint: str
) -> None:
    save_file(load_file(saved), tmp_path / "w.safetensors", metadata=change(INFO.to_metadata()))
    assert complaint in refusal(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s.pop("down4.conv.weight"), "down4.conv.weight is missing"),
        (lambda s: s.clear(), "stem.0.conv.weight is missing"),
        (lambda s: s.update(extra=torch.zeros(2)), "extra does not belong there"),
        (lambda s: s.update({"stem.0.bn.bias": torch.zeros(17)}), "stem.0.bn.bias has shape (17,), not (16,)"),
        (lambda s: s.update({"stem.0.bn.bias": torch.full((16,), float("nan"))}), "stem.0.bn.bias holds values"),
        (lambda s: s.update({"stem.0.bn.running_var": torch.full((16,), float("inf"))}), "running_var holds values"),
        (lambda s: s["stem.0.bn.running_var"].select(0, 3).neg_(), "stem.0.bn.running_var holds negative variances"),
        (lambda s: s.update({"stem.0.bn.bias": torch.full((16,), 1e300, dtype=torch.float64)}), "bias holds values"),
        (lambda s: s.update({"stem.0.bn.bias": torch.ones(16, dtype=torch.int8)}), "bias is torch.int8, not"),
        (lambda s: s.update({"stem.0.bn.bias": torch.ones(16, dtype=torch.bool)}), "bn.bias is torch.bool, not"),
        (lambda s: s.update({"stem.0.bn.num_batches_tracked": torch.tensor(1.0)}), "is torch.float32, not torch.int64"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    saved: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], complaint: str
) -> None:
    state = load_file(saved)
    change(state)
    save_file(state, tmp_path / "w.safetensors", metadata=INFO.to_metadata())
    assert complaint in refusal(tmp_path / "w.safetensors")


def save_torch(path: Path, model: DetectionModel) -> None:
    atomic_write(path, lambda temporary: torch.save(model.state_dict(), temporary))


@pytest.mark.parametrize("save", [lambda path, model: save_weights(path, model, INFO), save_torch])
def test_a_full_disk_is_one_line_and_leaves_the_old_file(
    tmp_path: Path, model: DetectionModel, save: Callable[[Path, DetectionModel], None]
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_text("the old one")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(DetectorError, match=r"w\.safetensors: can't be written .*; free some space"):
            save(path, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    assert path.read_text() == "the old one"


def test_a_place_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x.json", tmp_path / "folder"):
        with pytest.raises(DetectorError, match="can't be written"):
            write_json(path, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("another"), KeyboardInterrupt()])
def test_any_other_failure_passes_through_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fail(path: Path) -> None:
        path.write_text("half of it")
        raise error

    with pytest.raises(type(error)):
        atomic_write(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_file_name_can_be_written(tmp_path: Path) -> None:
    atomic_write(tmp_path / ("x" * 255), lambda temporary: torch.save({"a": 1}, temporary))
    assert torch.load(tmp_path / ("x" * 255), weights_only=True) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x" * 255]


def test_a_written_file_has_the_usual_permissions(tmp_path: Path, saved: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"x": [1]})
    (tmp_path / "plain").write_text("")
    for written in (tmp_path / "new" / "a.json", saved):
        assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"x": [1]}


@pytest.mark.parametrize("convert", [from_published, to_published])
@pytest.mark.parametrize("entry", ["stem.0.conv.weight", "attention.blocks.0.feed_forward.0.bn.bias"])
def test_a_state_of_another_model_is_refused_by_its_first_wrong_entry(
    model: DetectionModel, convert: Callable[..., dict[str, Tensor]], entry: str
) -> None:
    ours = model.state_dict()
    position = list(ours).index(entry)
    theirs = to_published(ours, "yolo11n")
    state, name = (theirs, list(theirs)[position]) if convert is from_published else (ours, entry)
    assert torch.equal(state[name], ours[entry])
    assert len(convert(state, "yolo11n")) > 0

    missing = {key: tensor for key, tensor in state.items() if key != name}
    with pytest.raises(WeightsError, match=f"state has no {re.escape(name)}: "):
        convert(missing, "yolo11n")
    with pytest.raises(WeightsError, match=r"state has extra\.weight, which .*yolo11n does not"):
        convert({**state, "extra.weight": torch.zeros(1)}, "yolo11n")
    with pytest.raises(WeightsError, match=re.escape(f"{name} has shape (1, 2, 3) instead of")):
        convert({**state, name: torch.zeros(1, 2, 3)}, "yolo11n")
    for other in ({}, {"extra.weight": torch.zeros(1)}):
        with pytest.raises(WeightsError, match=r"state has no .*: it is not"):
            convert(other, "yolo11n")
    with pytest.raises(WeightsError, match="yolo11m"):
        convert(state, "yolo11m")
