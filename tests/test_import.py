"""Published checkpoints: what they hold is recovered, whatever way it is held, and what is no detector is named."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_checkpoint import PACKAGE, foreign_classes, modules_of, save_checkpoint
from lively_model import lively_model
from safetensors.torch import save_file
from torch import Tensor, nn

from detector.cli import main
from detector.config import EvaluateConfig, ExportConfig, ImportConfig
from detector.errors import ConfigError, DetectorError, ExportMismatchError, WeightsError
from detector.evaluation.evaluate import evaluate
from detector.exporting.export import export
from detector.models.catalog import PUBLISHED, create_model
from detector.structures import Categories
from detector.weights.files import WeightsInfo, load_weights, save_weights
from detector.weights.published.convert import categories_of, import_weights
from detector.weights.published.names import to_published
from detector.weights.published.read import read_published

SHARED = Path(__file__).parents[2] / "shared"
NAMES = ("cat", "dog", "a bird")
State = dict[str, Tensor]


def published_state(model: str = "yolo11n", num_classes: int = 3, seed: int = 0) -> State:
    torch.manual_seed(seed)
    return to_published(create_model(model, num_classes).state_dict(), model)


@pytest.fixture(scope="module")
def state() -> State:
    return published_state()


def same_state(model: nn.Module, published: State, half: bool, name: str = "yolo11n") -> bool:
    """Whether the model `name` holds these tensors, rounded to half precision where the checkpoint was."""
    got = to_published(model.state_dict(), name)
    return all(
        torch.equal(got[n], t.half().to(t.dtype) if half and t.is_floating_point() else t) for n, t in published.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo11n", "yolov9t"])
def test_modules_of_a_package_that_is_not_there(name: str, tmp_path: Path) -> None:
    averaged = published_state(name, seed=1)
    save_checkpoint(tmp_path / "best.pt", published_state(name), dict(enumerate(NAMES)), averaged, image_size=300)
    assert PACKAGE not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        torch.load(tmp_path / "best.pt", weights_only=False)
    info = import_weights(ImportConfig(str(tmp_path / "best.pt"), str(tmp_path / "new" / "w.safetensors")))
    model, loaded = load_weights(tmp_path / "new" / "w.safetensors")
    assert loaded == info
    assert same_state(model, averaged, half=True, name=name)
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32, torch.int64}
    assert info == WeightsInfo(
        name, Categories((0, 1, 2), NAMES), 320, {"imported_from": "best.pt", "part": "ema"}, {}, "CC0"
    )
    assert PACKAGE not in sys.modules


@pytest.mark.slow
@pytest.mark.parametrize("model", PUBLISHED)
def test_every_published_model_is_recognized(model: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        empty = to_published(create_model(model, 5).state_dict(), model)
    state = {name: torch.zeros(tensor.shape, dtype=tensor.dtype).half() for name, tensor in empty.items()}
    state |= {name: tensor.long() for name, tensor in state.items() if name.endswith("tracked")}
    state |= {name: torch.arange(16.0).view(1, 16, 1, 1) for name in state if ".dfl." in name}
    torch.save(state, tmp_path / "state.pt")
    published = read_published(tmp_path / "state.pt")
    assert (published.model, published.num_classes, published.part) == (model, 5, "the state")
    assert (published.class_names, published.image_size, published.license) == (None, None, None)


def save_module(path: Path, state: State) -> None:
    with foreign_classes() as classes:
        torch.save(modules_of(state, classes), path)


def save_state_of_module(path: Path, state: State) -> None:
    """An OrderedDict with attributes."""
    with foreign_classes() as classes:
        torch.save({"model": modules_of(state, classes).state_dict()}, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("save", "part"),
    [
        (lambda path, state: save_checkpoint(path, state, half=False), "model"),
        (save_module, "the module"),
        (lambda path, state: torch.save(state, path), "the state"),
        (lambda path, state: torch.save({"state_dict": state, "epoch": 3}, path), "state_dict"),
        (save_state_of_module, "model"),
        (lambda path, state: torch.save(state, path, pickle_protocol=5), "the state"),
        (lambda path, state: save_file(state, path), "the state"),
    ],
    ids=["checkpoint", "module", "state", "state_dict", "model", "protocol 5", "safetensors"],
)
def test_every_way_to_hold_a_network(
    state: State, tmp_path: Path, save: Callable[[Path, State], None], part: str
) -> None:
    save(tmp_path / "file", state)
    published = read_published(tmp_path / "file")
    assert (published.model, published.part) == ("yolo11n", part)
    model = create_model("yolo11n", 3)
    model.load_state_dict(published.state)
    assert same_state(model, state, half=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stated", "size"), [(320, 320), (300, 320), ([384, 640], (384, 640)), ([640], 640), (None, None)]
)
def test_the_image_size(state: State, tmp_path: Path, stated: object, size: object) -> None:
    save_checkpoint(tmp_path / "a.pt", state, list(NAMES), image_size=stated)
    assert read_published(tmp_path / "a.pt").image_size == size


def annotations(path: Path, categories: dict[int, str]) -> str:
    entries = [{"id": number, "name": name} for number, name in categories.items()]
    path.write_text(json.dumps({"images": [{}], "annotations": [], "categories": entries}))
    return str(path)


def test_names_and_ids_of_classes(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "state.pt")
    published = read_published(tmp_path / "state.pt")

    def categories(names: str | None = None, file: str | None = None) -> Categories:
        return categories_of(published, ImportConfig("", "", class_names=names, annotations=file))

    assert categories() == Categories((0, 1, 2), ("class0", "class1", "class2"))
    assert categories("dog, a bird,cat") == Categories((0, 1, 2), ("dog", "a bird", "cat"))
    file = annotations(tmp_path / "a.json", {90: "cat", 1: "animals", 3: "dog", 7: "a bird"})
    assert categories("dog, a bird,cat", file) == Categories((3, 7, 90), ("dog", "a bird", "cat"))
    assert categories_of(replace(published, class_names=NAMES), ImportConfig("", "", annotations=file)).ids == (
        90,
        3,
        7,
    )
    with pytest.raises(ConfigError, match="2 names for a network of 3 classes"):
        categories("dog,cat")
    with pytest.raises(ConfigError, match=r"a\.json has 0 categories 'class0'"):
        categories(None, file)
    twice = annotations(tmp_path / "b.json", {1: "dog", 2: "dog", 3: "cat", 4: "a bird"})
    with pytest.raises(ConfigError, match=r"b\.json has 2 categories 'dog'"):
        categories("dog,cat,a bird", twice)


def without_norms(state: State) -> State:
    fused = {name: tensor for name, tensor in state.items() if ".bn." not in name}
    return fused | {
        name.replace(".weight", ".bias"): torch.zeros(len(t)) for name, t in fused.items() if ".conv." in name
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s | {"model.23.proto.weight": torch.zeros(4)}, r"'model\.23\.proto\.weight' has no place in yolo11n"),
        (lambda s: {n: t for n, t in s.items() if n != "model.5.bn.bias"}, r"yolo11n.* no model\.5\.bn\.bias"),
        (lambda s: s | {"model.5.bn.bias": torch.zeros(7)}, r"model\.5\.bn\.bias has shape \(7,\)"),
        (without_norms, "fused .* give the one from before fusing"),
        (lambda s: s | {"model.5.bn.bias": s["model.5.bn.bias"] / 0}, "not finite"),
        (lambda s: s | {"model.5.bn.running_var": -s["model.5.bn.running_var"]}, "holds negative variances"),
        (lambda s: s | {"model.5.bn.bias": s["model.5.bn.bias"].to(torch.int8)}, "unquantized"),
        (lambda s: s | {"model.23.dfl.conv.weight": torch.zeros(1, 16, 1, 1)}, "dfl.* differs from what yolo11n has"),
        (lambda _: {"a.weight": torch.zeros(3)}, "no detection network"),
        (lambda _: {}, "holds no network"),
        (lambda _: [torch.zeros(2)], "holds no network"),
        (lambda _: torch.zeros(2), "holds no network"),
    ],
)  # fmt: skip
def test_what_is_no_known_detector_is_named(
    state: State, tmp_path: Path, change: Callable[[State], object], complaint: str
) -> None:
    torch.save(change(dict(state)), tmp_path / "a.pt")
    assert_refused(tmp_path / "a.pt", complaint)


def assert_refused(path: Path, complaint: str) -> None:
    before = set(path.parent.iterdir())
    with pytest.raises(WeightsError, match=complaint) as caught:
        import_weights(ImportConfig(str(path), str(path.parent / "out.safetensors")))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert set(path.parent.iterdir()) == before


def test_layers_of_another_task_are_named_with_their_class(state: State, tmp_path: Path) -> None:
    with foreign_classes() as classes:
        network = modules_of(state, classes)
        head = classes["Segment"]()
        network.add_module("masks", head)
        head.add_module("0", nn.Conv2d(1, 1, 1))
        torch.save({"model": network}, tmp_path / "a.pt")
    assert_refused(tmp_path / "a.pt", r"'masks\.0\.weight' in 'DetectionModel > Segment' has no place in yolo11n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (nn.ReLU(), r"'model\.0\.extra' is 'torch\.nn\.modules\.activation\.ReLU'"),
        (nn.BatchNorm2d(1), "with eps 1e-05"),
    ],
)
def test_what_computes_otherwise_is_named(state: State, tmp_path: Path, module: nn.Module, complaint: str) -> None:
    """Names and shapes of the tensors alone would not tell."""
    with foreign_classes() as classes:
        network = modules_of(state, classes)
        network.get_submodule("model.0").extra = module
        torch.save(network, tmp_path / "a.pt")
    assert_refused(tmp_path / "a.pt", complaint)


@pytest.mark.slow
@pytest.mark.parametrize("names", [["a"], {0: "a", 1: "b", 5: "c"}, {"a": 0}, "abc", [1, 2, 3], ["a", "b", "\x1b[2J"]])
def test_names_that_do_not_fit(state: State, tmp_path: Path, names: object) -> None:
    save_checkpoint(tmp_path / "a.pt", state, names)
    assert_refused(tmp_path / "a.pt", "class names .* --class_names")
    config = ImportConfig(str(tmp_path / "a.pt"), str(tmp_path / "out"), class_names="a,b,c")
    assert import_weights(config).categories.names == ("a", "b", "c")


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, -32, 10**9, "640", 320.0, [1, 2, 3], True])
def test_a_size_that_is_none(state: State, tmp_path: Path, size: object) -> None:
    save_checkpoint(tmp_path / "a.pt", state, list(NAMES), image_size=size)
    assert_refused(tmp_path / "a.pt", "image size .* is none")


def test_our_own_file_and_places_that_can_not_be_written(state: State, tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    save_weights(own, create_model("yolo11n", 3), WeightsInfo("yolo11n", Categories((1,), ("a",)), 64, {}, {}, ""))
    assert_refused(own, "weights file of this program already")
    assert_refused(tmp_path / "none.pt", "No such file")
    torch.save(state, tmp_path / "a.pt")
    for out in (tmp_path, tmp_path / "a.pt", tmp_path / "a.pt" / "b"):
        with pytest.raises(DetectorError, match="out: "):
            import_weights(ImportConfig(str(tmp_path / "a.pt"), str(out)))
    assert read_published(tmp_path / "a.pt").model == "yolo11n"


@pytest.mark.slow
def test_export_and_import_give_the_same_weights(tmp_path: Path) -> None:
    weights, published, back = (str(tmp_path / name) for name in ("w.safetensors", "p.pt", "back.safetensors"))
    model = lively_model(3)
    with torch.no_grad():  # logits of the size that training gives: larger ones would magnify float32's rounding
        for branch in [*model.head.box_branches, *model.head.class_branches]:
            branch[-1].weight *= 0.05
    info = WeightsInfo("yolo11n", Categories((3, 7, 9), NAMES), 96, {}, {}, "CC0")
    save_weights(Path(weights), model, info)
    comparison = export(ExportConfig(weights=weights, out=published, format="published"))
    assert comparison.score_difference < 1e-5
    assert comparison.model_detections == comparison.file_detections > 0
    loaded = torch.load(published, weights_only=True)
    assert type(loaded) is dict
    assert {type(tensor) for tensor in loaded.values()} == {Tensor}
    if SHARED.exists():
        listed = json.loads((SHARED / "golden" / "models.json").read_text())["yolo11n"]["state"]
        assert sorted(loaded) == sorted(name for name, _ in listed)
    import_weights(ImportConfig(published, back, class_names=",".join(NAMES)))
    again, _ = load_weights(back)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_a_network_that_was_never_published_is_not_exported_as_such(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="yolo11n-cross has no published counterpart"):
        to_published(create_model("yolo11n-cross", 1).state_dict(), "yolo11n-cross")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_spoiled_export_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(state: State, model: str) -> State:
        return {name: t + 1 if name.endswith("cv3.0.2.bias") else t for name, t in to_published(state, model).items()}

    monkeypatch.setattr("detector.weights.published.write.to_published", spoiled)
    save_weights(tmp_path / "w", lively_model(1), WeightsInfo("yolo11n", Categories((1,), ("a",)), 64, {}, {}, ""))
    with pytest.raises(ExportMismatchError, match="was not written"):
        export(ExportConfig(weights=str(tmp_path / "w"), out=str(tmp_path / "p.pt"), format="published"))
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the peer's checkpoint lies outside the repository")
def test_the_peers_checkpoint_finds_what_the_peer_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On all 72 images of the BCCD test split, at the peer's thresholds, which are those of `evaluate`."""
    data, out = SHARED / "data" / "bccd", str(tmp_path / "peer.safetensors")
    file = data / "annotations" / "instances_test.json"
    assert main(["import_weights", str(SHARED / "golden" / "peer-bccd.pt"), out, "--annotations", str(file)]) == 0
    assert "1 RBC, 2 WBC, 3 Platelets" in capsys.readouterr().out
    _, info = load_weights(out)
    assert (info.model, info.image_size, info.categories.names) == ("yolo11n", 320, ("RBC", "WBC", "Platelets"))
    assert info.license.startswith("AGPL-3.0")
    peer = json.loads((SHARED / "golden" / "peer-bccd.json").read_text())
    config = EvaluateConfig(
        weights=out, out=str(tmp_path / "eval"), data=str(data), split="test", workers=0, device="cpu"
    )
    metrics = evaluate(config)
    for name, value in peer["figures"].items():
        assert metrics[name] == pytest.approx(value, abs=0.002), name
    found = json.loads((tmp_path / "eval" / "detections.json").read_text())
    assert len(found) == len(peer["detections"]) == 11535
    rest = corners(peer["detections"])
    for key, rows in corners(found).items():
        assert len(rows) == len(rest[key])
        for row in rows:
            distance = np.abs(rest[key] - row) / (0.5, 0.5, 0.5, 0.5, 2e-3)
            partner = distance.max(axis=1).argmin()
            assert distance[partner].max() <= 1, (key, row)
            rest[key] = np.delete(rest[key], partner, axis=0)


def corners(detections: list[dict]) -> dict[tuple[int, int], np.ndarray]:
    """(image, category) -> a row x1, y1, x2, y2, score for each detection."""
    rows: dict[tuple[int, int], list[list[float]]] = {}
    for entry in detections:
        x, y, width, height = entry["bbox"]
        row = [x, y, x + width, y + height, entry["score"]]
        rows.setdefault((entry["image_id"], entry["category_id"]), []).append(row)
    return {key: np.array(values) for key, values in rows.items()}
