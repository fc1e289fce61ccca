"""Checkpoints in the layout of MultimediaTechLab/YOLO: recognized, and networks that compute what their source computes."""

import json
import os
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from golden_weights import golden_values
from lively_model import calmed, lively_model
from mit_layout import GROUPS, group_boxes, to_mit
from safetensors.torch import load_file, save_file
from small_run import small_config
from torch import Tensor
from torch.nn import functional as F

import detector.training.loop as loop
from detector.boxes import make_anchors
from detector.cli import main
from detector.config import ExportConfig, ImportConfig
from detector.data.coco import read_categories
from detector.demo.scenes import make_dataset
from detector.errors import ConfigError, DetectorError, WeightsError
from detector.exporting.export import export
from detector.exporting.verify import shipped_photos
from detector.formats.load import load_runtime
from detector.formats.runtime import HeadRuntime
from detector.formats.table import FORMATS
from detector.images.letterbox import Letterbox
from detector.images.read import read_image
from detector.models.base import DetectionModel, scale_pixels
from detector.models.catalog import create_model
from detector.structures import Categories
from detector.weights.files import WeightsInfo, load_weights, save_weights
from detector.weights.published.coco_categories import COCO
from detector.weights.published.convert import import_weights
from detector.weights.published.read import read_published

SHARED = Path(__file__).parents[2] / "shared"
GOLDEN = SHARED / "golden" / "mit"
State = dict[str, Tensor]
NETWORKS = [("yolov9t", 128), ("yolov9t", None), ("yolov9s", None), ("yolov9m", None), ("yolov9c", None)]
"""Those that are published, and t with the class branches that it has here."""
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="the golden values lie outside the repository")


def drawn_model(
    name: str = "yolov9t", num_classes: int = 3, class_width: int | None = 128, seed: int = 0
) -> DetectionModel:
    torch.manual_seed(seed)
    model = group_boxes(create_model(name, num_classes, class_width))
    for key, tensor in model.state_dict().items():
        if key.endswith(("running_mean", "running_var", "tracked")):  # else all alike
            tensor.copy_(torch.rand(tensor.shape) * 9)
    return model


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    return drawn_model()


@pytest.fixture(scope="module")
def state(model: DetectionModel) -> State:
    return to_mit(model.state_dict())


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# ---- the layout


@needs_golden
@pytest.mark.slow
@pytest.mark.parametrize("letter", "tsmc")
def test_what_the_tests_write_is_what_is_published(letter: str) -> None:
    listed = json.loads((GOLDEN / "models.json").read_text())[f"v9-{letter}"]["state"]
    model = group_boxes(create_model(f"yolov9{letter}", 80, 128 if letter == "t" else None))
    written = to_mit(model.state_dict())
    if letter in "mc":  # whose auxiliary branch is another
        listed = [(name, shape) for name, shape in listed if int(name.split(".")[0]) <= 22]
        written = {name: tensor for name, tensor in written.items() if int(name.split(".")[0]) <= 22}
    assert {name: list(tensor.shape) for name, tensor in written.items()} == dict(listed)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "class_width"), NETWORKS)
def test_every_network_comes_back_with_the_same_weights(name: str, class_width: int | None, tmp_path: Path) -> None:
    model = drawn_model(name, 5, class_width).half()
    torch.save(to_mit(model.state_dict()), tmp_path / "v9.pt")
    published = read_published(tmp_path / "v9.pt")
    assert (published.model, published.num_classes, published.part) == (name, 5, "the state")
    assert {tensor.dtype for tensor in published.state.values()} == {torch.float32, torch.int64}
    assert same(published.state, model.float().state_dict())
    again = create_model(name, 5, published.class_width)
    assert again.head.class_width == class_width
    again.load_state_dict(published.state)


def settings_of_another_package() -> object:
    """As OmegaConf's settings lie in a checkpoint: objects of classes that are not there, which mention `typing.Any`."""
    kind = type("DictConfig", (), {"__module__": "omegaconf.dictconfig"})
    settings = kind()
    settings.__dict__ = {"_metadata": {"ref_type": Any, "element_type": Any}, "_content": {"lr": 0.01}}
    return settings


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> Callable[[State], dict[str, Any]]:
    """What PyTorch Lightning saves around a state."""
    settings = settings_of_another_package()
    for name in ("omegaconf", "omegaconf.dictconfig"):
        module = ModuleType(name)
        module.DictConfig = type(settings)
        monkeypatch.setitem(sys.modules, name, module)
    return lambda state: {
        "epoch": 3,
        "state_dict": OrderedDict(state),
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [{"milestones": Counter({3: 1})}],
        "hyper_parameters": settings,
    }


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("held", "part"),
    [
        (lambda own, _: prefixed("model.model.", own), "state_dict (model.model)"),
        (lambda own, _: prefixed("model.model.", own) | {"loss.weight": torch.ones(1)}, "state_dict (model.model)"),
        (lambda own, old: prefixed("model.model.", old) | prefixed("ema.model.", own), "state_dict (ema.model)"),
        (lambda own, old: prefixed("ema_model.", own) | prefixed("model.model.", old), "state_dict (ema_model)"),
        (lambda own, old: old | prefixed("ema.", own), "state_dict (ema)"),
        (lambda own, _: own, "state_dict"),
    ],
    ids=["prefix", "loss", "average", "average first", "average beside none", "no prefix"],
)
def test_the_network_is_found_within_a_checkpoint(
    model: DetectionModel,
    state: State,
    lightning: Callable[[State], dict[str, Any]],
    tmp_path: Path,
    held: Callable[[State, State], State],
    part: str,
) -> None:
    old = {name: tensor if "anc2vec" in name else tensor + 1 for name, tensor in state.items()}
    torch.save(lightning(held(state, old)), tmp_path / "last.ckpt")
    published = read_published(tmp_path / "last.ckpt")
    assert published.part == part
    assert same(published.state, model.state_dict())


def test_safetensors_and_a_file_without_the_auxiliary_branch(model: DetectionModel, tmp_path: Path) -> None:
    state = to_mit(model.state_dict(), auxiliary=False)
    save_file(state, tmp_path / "v9.safetensors")
    without_bins = {name: tensor for name, tensor in state.items() if "anc2vec" not in name}
    torch.save(without_bins, tmp_path / "v9.pt")
    for file in ("v9.safetensors", "v9.pt"):
        assert same(read_published(tmp_path / file).state, model.state_dict())


# ---- refusals


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def test_nothing_in_the_file_is_run(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(OrderedDict(state), tmp_path / "v9.pt")
    torch.save(OrderedDict(state, trap=Trap(tmp_path / "trapped")), tmp_path / "trap.pt")
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr("pickle.Unpickler", None)
    assert read_published(tmp_path / "v9.pt").model == "yolov9t"
    with pytest.raises(WeightsError, match=r"asks for .*mkdir.*: this could run code"):
        read_published(tmp_path / "trap.pt")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"5.conv.bn.bias": None}, r"state has no 5\.conv\.bn\.bias: it is not a published yolov9t"),
        ({"5.conv.bn.bias": torch.zeros(7)}, r"5\.conv\.bn\.bias has shape \(7,\) instead of \(96,\)"),
        (
            {"22.heads.0.anchor_conv.2.weight": torch.zeros(64, 64, 1, 1)},
            r"\(64, 64, 1, 1\) instead of \(64, 16, 1, 1\)",
        ),
        ({"22.heads.0.class_conv.2.weight": torch.zeros(3)}, r"instead of \(3, 1, 1, 1\)|has shape"),
        ({"22.heads.1.class_conv.2.bias": torch.zeros(4)}, r"22\.heads\.1\.class_conv\.2\.bias has shape \(4,\)"),
        ({"5.extra.weight": torch.zeros(1)}, r"'5\.extra\.weight' has no place in yolov9t, the nearest"),
        ({"loss.weight": torch.zeros(1)}, r"'loss\.weight' has no place in yolov9t"),
        (
            {"22.heads.2.anc2vec.anc2vec.weight": torch.zeros(1, 16, 1, 1, 1)},
            r"heads\.2\.anc2vec.* differs from what yolov9t",
        ),
        ({"5.conv.bn.bias": torch.full((96,), float("nan"))}, "not finite"),
        ({"5.conv.bn.bias": torch.zeros(96, dtype=torch.int8)}, "unquantized"),
    ],
)
def test_what_differs_is_named_in_one_line(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: State, complaint: str
) -> None:
    changed = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
    torch.save(changed, tmp_path / "v9.pt")
    with pytest.raises(WeightsError, match=complaint) as caught:
        read_published(tmp_path / "v9.pt")
    assert str(caught.value).startswith(f"{tmp_path / 'v9.pt'}: ")
    assert main(["import_weights", str(tmp_path / "v9.pt"), str(tmp_path / "out.safetensors")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["v9.pt"]


# ---- classes and license


@needs_golden
def test_the_categories_are_those_of_coco() -> None:
    assert read_categories(SHARED / "data" / "coco-tiny" / "annotations" / "instances_val2017.json") == COCO


@pytest.mark.slow
def test_eighty_classes_without_names_are_cocos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = str(tmp_path / "v9-t.pt"), str(tmp_path / "w.safetensors")
    torch.save(to_mit(drawn_model(num_classes=80).state_dict()), file)
    info = import_weights(ImportConfig(file, out))
    training = {"imported_from": "v9-t.pt", "part": "the state"}
    assert info == WeightsInfo("yolov9t", COCO, 640, training, {}, "MIT", class_width=128)
    assert (COCO.ids[0], COCO.ids[-1], COCO.names[11]) == (1, 90, "stop sign")
    printed = capsys.readouterr().out
    assert "1 person, 2 bicycle" in printed
    assert "license: MIT" in printed
    assert "the file names no classes: taken for the published weights, trained on COCO" in printed

    own = [f"thing {label}" for label in range(80)]
    info = import_weights(ImportConfig(file, out, class_names=own))
    assert info.categories == Categories(tuple(range(80)), tuple(own))
    assert info.license == "not stated"
    assert "COCO" not in capsys.readouterr().out

    entries = [{"id": 500 - number, "name": name} for number, name in zip(COCO.ids, COCO.names, strict=True)]
    (tmp_path / "a.json").write_text(json.dumps({"images": [{}], "annotations": [], "categories": entries}))
    info = import_weights(ImportConfig(file, out, annotations=str(tmp_path / "a.json")))
    assert info.categories == Categories(tuple(500 - number for number in COCO.ids), COCO.names)
    assert info.license == "MIT"


def test_other_classes_are_not_cocos(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "mine.pt")
    info = import_weights(ImportConfig(str(tmp_path / "mine.pt"), str(tmp_path / "w.safetensors")))
    assert info.categories == Categories((0, 1, 2), ("class0", "class1", "class2"))
    assert info.license == "not stated"


# ---- golden values


def golden_checkpoint(letter: str) -> tuple[State, list[Tensor]]:
    """The state, and the constants of the three levels with which the golden distances were made: drawn like all else."""
    entries = json.loads((GOLDEN / "models.json").read_text())[f"v9-{letter}"]["state"]
    state = golden_values([(name, shape) for name, shape in entries])
    bins = [name for name in state if name.startswith("22.") and "anc2vec" in name]
    drawn = [state[name].flatten().double() for name in bins]
    return state | {
        name: torch.arange(16.0).view(tensor.shape) for name, tensor in state.items() if "anc2vec" in name
    }, drawn


def imported(path: Path) -> DetectionModel:
    """In evaluation mode, float64."""
    import_weights(ImportConfig(str(path), str(path.with_name("w.safetensors"))))
    model, _ = load_weights(path.with_name("w.safetensors"))
    return model.double()


@needs_golden
@pytest.mark.slow
@pytest.mark.parametrize("letter", "tsmc")
def test_outputs_are_those_of_the_source(letter: str, tmp_path: Path) -> None:
    state, bins = golden_checkpoint(letter)
    torch.save(state, tmp_path / "v9.pt")
    model = imported(tmp_path / "v9.pt")
    assert model.head.class_width == (128 if letter == "t" else None)
    images = torch.rand(2, 3, 192, 256, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        raw, _ = model.logits(images[:1])
    expected = load_file(GOLDEN / f"v9-{letter}.safetensors")
    assert (raw.scores - expected["class_logits"]).abs().max() < 1e-9
    ours = raw.boxes.view(1, 4, 16, -1)
    assert (ours - expected["box_logits"].view(1, 16, 4, -1).transpose(1, 2)).abs().max() < 1e-9
    of_level = ours.softmax(dim=2).split((24 * 32, 12 * 16, 6 * 8), dim=3)
    distances = [torch.einsum("nsbc,b->nsc", level, values) for level, values in zip(of_level, bins, strict=True)]
    assert (torch.cat(distances, dim=2) - expected["distances"]).abs().max() < 1e-9


def conv(state: State, name: str, x: Tensor, groups: int) -> Tensor:
    """Convolution, batch norm, SiLU, in evaluation mode."""
    weight, norm = state[f"{name}.conv.weight"], f"{name}.bn"
    y = F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)
    statistics = (state[f"{norm}.running_mean"], state[f"{norm}.running_var"])
    return F.silu(F.batch_norm(y, *statistics, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-3))


def head_of_the_source(state: State, levels: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Class logits (1, 80, A), box logits (1, 64, A) bin-major, distances (1, 4, A) in strides: with the tensors as
    they are published, in groups, and the bins decoded by a convolution with the constants."""
    outputs: list[list[Tensor]] = [[], [], []]
    for level, x in enumerate(levels):
        head = f"22.heads.{level}"
        classes = conv(state, f"{head}.class_conv.1", conv(state, f"{head}.class_conv.0", x, 1), 1)
        boxes = conv(state, f"{head}.anchor_conv.1", conv(state, f"{head}.anchor_conv.0", x, 1), GROUPS)
        last, bias = f"{head}.class_conv.2", f"{head}.anchor_conv.2.bias"
        classes = F.conv2d(classes, state[f"{last}.weight"], state[f"{last}.bias"])
        boxes = F.conv2d(boxes, state[f"{head}.anchor_conv.2.weight"], state[bias], groups=GROUPS)
        bins = boxes.unflatten(1, (4, 16)).transpose(1, 2)  # (1, 16, 4, h, w)
        distances = F.conv3d(bins.softmax(dim=1), state[f"{head}.anc2vec.anc2vec.weight"])[:, 0]
        for output, each in zip(outputs, (classes, bins.flatten(1, 2), distances), strict=True):
            output.append(each.flatten(2))
    classes, boxes, distances = (torch.cat(output, dim=2) for output in outputs)
    return classes, boxes, distances


@needs_golden
@pytest.mark.slow
def test_photographs_have_the_sources_boxes(tmp_path: Path) -> None:
    """The source's head, computed from the published tensors and held to the golden values, on what the neck gives it."""
    state, drawn_bins = golden_checkpoint("s")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "v9.safetensors")
    model = imported(tmp_path / "v9.safetensors")
    exact = {name: tensor.double() for name, tensor in state.items() if tensor.is_floating_point()}
    golden = load_file(GOLDEN / "v9-s.safetensors")
    images = torch.rand(2, 3, 192, 256, generator=torch.Generator().manual_seed(1)).double()
    as_drawn = {f"22.heads.{i}.anc2vec.anc2vec.weight": b.view(1, 16, 1, 1, 1) for i, b in enumerate(drawn_bins)}
    with torch.no_grad():
        reference = head_of_the_source(exact | as_drawn, model.levels(images[:1]))
    for output, name in zip(reference, ("class_logits", "box_logits", "distances"), strict=True):
        assert (output - golden[name]).abs().max() < 1e-9, name

    photographs = sorted((SHARED / "data" / "coco-tiny" / "val2017").glob("*.jpg"))[:6]
    assert len(photographs) == 6
    for path in photographs:
        image = read_image(path)
        letterbox = Letterbox(image.shape[1], image.shape[0], 256, 192)
        pixels = torch.from_numpy(letterbox.apply(image)).permute(2, 0, 1)[None]
        with torch.no_grad():
            found = model(scale_pixels(pixels).double())
            levels = model.levels(scale_pixels(pixels).double())
            classes, _, (distances,) = head_of_the_source(exact, levels)
        anchors = make_anchors([(24, 32), (12, 16), (6, 8)], (8, 16, 32), like=distances)
        left_top, right_bottom = (distances.T * anchors.strides[:, None]).chunk(2, dim=1)
        boxes = torch.cat((anchors.points - left_top, anchors.points + right_bottom), dim=1)
        assert (found.boxes[0] - boxes).abs().max() < 1e-9
        assert (found.scores[0] - classes[0].sigmoid().T).abs().max() < 1e-9


# ---- the width of the class branches


def test_a_width_is_kept_where_it_is_not_the_rules() -> None:
    assert create_model("yolov9t", 80, 128).head.class_width == 128
    assert create_model("yolov9t", 80, 80).head.class_width is None
    assert create_model("yolo11n", 3, 72).state_dict()["head.class_branches.2.2.weight"].shape == (3, 72, 1, 1)
    for width in (0, -1, 4097):
        with pytest.raises(ConfigError, match=f"class_width is {width}: give channels from 1 to 4096"):
            create_model("yolov9t", 80, width)


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a t with class branches 128 wide, which finds many boxes of 3 classes; at 96 px."""
    path = tmp_path_factory.mktemp("lively") / "v9-t.pt"
    model = calmed(group_boxes(lively_model(3, "yolov9t", class_width=128)))
    torch.save(to_mit(model.state_dict()), path)
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("no_shape_checks")
def test_a_round_trip_through_save_load_and_onnx(lively: Path, tmp_path: Path) -> None:
    weights, onnx = tmp_path / "w.safetensors", tmp_path / "w.onnx"
    info = import_weights(ImportConfig(str(lively), str(weights)))
    model, loaded = load_weights(weights)
    assert (loaded, loaded.class_width, model.head.class_width) == (info, 128, 128)
    save_weights(tmp_path / "again.safetensors", model, loaded)
    assert (tmp_path / "again.safetensors").read_bytes() == weights.read_bytes()

    info = replace(info, image_size=96)
    FORMATS["onnx"].write(onnx, model, info, ExportConfig(weights="", out=str(onnx), raw=True), None)
    runtime, stated = load_runtime(onnx, "cpu", None)
    assert stated == info
    assert isinstance(runtime, HeadRuntime)
    image = read_image(shipped_photos()[0])
    letterboxed = Letterbox(image.shape[1], image.shape[0], 96, 96).apply(image)
    pixels = torch.from_numpy(letterboxed).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected, found = model(scale_pixels(pixels)), runtime.predict(pixels)
    assert expected.scores.std() > 0.01
    assert (found.boxes - expected.boxes).abs().max() < 0.01  # pixels, of float32's rounding
    assert (found.scores - expected.scores).abs().max() < 1e-4

    with pytest.raises(
        WeightsError, match=r"w\.safetensors: its class branches are 128 wide, which .* no published yolov9t"
    ):
        export(ExportConfig(weights=str(weights), out=str(tmp_path / "p.pt"), format="published"))
    assert not (tmp_path / "p.pt").exists()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=1, train=8, val=3, test=3)
    return root


@pytest.mark.slow
def test_training_keeps_the_width_with_other_classes(
    lively: Path,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights, out = tmp_path / "w.safetensors", tmp_path / "run"
    names = ["zebra", "fish", "wheel"]
    source = import_weights(ImportConfig(str(lively), str(weights), class_names=names))
    assert source.class_width == 128
    config = small_config(scenes, out, model="yolov9t", weights=str(weights), epochs=1, checkpoint_minutes=0.0)

    def interrupted(*_: object) -> dict:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", interrupted)
        with pytest.raises(DetectorError, match=f"--resume {out}"):
            loop.train(config)
    assert f"start from {weights}: classes kept: fish; " in capsys.readouterr().out
    weights.unlink()
    loop.train(replace(config, resume=str(out)))
    content = torch.load(out / "last.pt", weights_only=True)
    assert (content["epoch"], content["class_width"]) == (1, 128)
    for part in ("model", "ema"):
        assert content[part]["head.class_branches.0.2.weight"].shape[1] == 128
    for file in ("best.safetensors", "last.safetensors"):
        model, info = load_weights(out / file)
        assert (info.class_width, model.head.class_width) == (128, 128)
        assert len(info.categories) != len(names)
