"""tools/pretrain.py: photographs with pseudo-labels and a teacher in, weights out that a training can start from."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from detector.demo.scenes import make_dataset
from detector.models.catalog import create_model
from detector.training import loop
from detector.weights.files import load_weights

pytestmark = pytest.mark.slow
OPTIONS = ["--image_size=64", "--batch_size=4", "--workers=0", "--epochs=2", "--train.nominal_batch_size=4"]


class StandInTeacher(nn.Module):
    """Maps of the teacher's widths and strides that follow from the image."""

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        widths = {8: 48, 16: 120, 32: 352}
        return {
            stride: F.avg_pool2d(images, stride).repeat(1, width // 3 + 1, 1, 1)[:, :width].sub(0.5).contiguous()
            for stride, width in widths.items()
        }


@pytest.fixture
def pretrain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[1] / "tools" / "pretrain.py"
    spec = importlib.util.spec_from_file_location("pretrain", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "Teacher", StandInTeacher)
    return module


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Drawn images in the layout of the photographs; every third box is unsure."""
    make_dataset(tmp_path / "drawn", seed=1, train=40, val=3, test=3)
    content = json.loads((tmp_path / "drawn" / "annotations" / "instances_train.json").read_bytes())
    for n, each in enumerate(content["annotations"]):
        each |= {"score": 0.4 if n % 3 == 0 else 0.8, "agreed": n % 6 == 0}
    folder = tmp_path / "photos"
    (folder / "annotations").mkdir(parents=True)
    (tmp_path / "drawn" / "train").rename(folder / "images")
    (folder / "annotations" / "instances_pseudo.json").write_text(json.dumps(content))
    return folder


def test_labels_are_the_sure_boxes_and_the_common_classes(pretrain: ModuleType, photos: Path, tmp_path: Path) -> None:
    path = photos / "annotations" / "instances_pseudo.json"
    content: dict[str, Any] = json.loads(path.read_bytes())
    content["categories"] = [{"id": n, "name": f"class {n}"} for n in range(80)]
    for n, each in enumerate(content["annotations"]):
        each |= {"category_id": n % 80 if n < 90 else 5, "agreed": True}
    path.write_text(json.dumps(content))
    pretrain.write_labels(photos, tmp_path / "out")
    splits = [json.loads((tmp_path / "out" / f"{split}.json").read_bytes()) for split in ("train", "val")]
    assert [len(split["images"]) for split in splits] == [38, 2]
    written = {each["id"]: each for split in splits for each in split["annotations"]}
    assert len(written) == len(content["annotations"])
    names = {each["id"]: each["name"] for each in splits[0]["categories"]}
    assert len(names) == 64
    for each in content["annotations"]:
        own = written[each["id"]]
        assert own["iscrowd"] == (0 if each["agreed"] or each["score"] >= 0.5 else 1)
        name = f"class {each['category_id']}"
        assert names[own["category_id"]] == (name if name in names.values() else "other object")
    assert names[5] == "class 5"


def test_few_classes_stay_as_they_are(pretrain: ModuleType, photos: Path, tmp_path: Path) -> None:
    content = json.loads((photos / "annotations" / "instances_pseudo.json").read_bytes())
    pretrain.write_labels(photos, tmp_path / "out")
    written = [json.loads((tmp_path / "out" / f"{split}.json").read_bytes()) for split in ("train", "val")]
    assert [len(split["images"]) for split in written] == [38, 2]
    assert {each["id"] for each in written[0]["categories"]} == {each["category_id"] for each in content["annotations"]}
    own = {each["id"]: each["iscrowd"] for split in written for each in split["annotations"]}
    assert own == {each["id"]: int(not each["agreed"] and each["score"] < 0.5) for each in content["annotations"]}
    assert set(own.values()) == {0, 1}


def test_a_class_with_unsure_boxes_only_is_listed(pretrain: ModuleType, photos: Path, tmp_path: Path) -> None:
    path = photos / "annotations" / "instances_pseudo.json"
    content = json.loads(path.read_bytes())
    rare = content["annotations"][0] | {"category_id": 50, "score": 0.4, "agreed": False}
    content["categories"].append({"id": 50, "name": "rare"})
    path.write_text(json.dumps(content | {"annotations": [rare, *content["annotations"][1:]]}))
    pretrain.write_labels(photos, tmp_path / "out")
    for split in ("train", "val"):
        written = json.loads((tmp_path / "out" / f"{split}.json").read_bytes())
        assert {each["category_id"] for each in written["annotations"]} <= {
            each["id"] for each in written["categories"]
        }
    assert written["categories"][-1]["name"] == "other object"


def test_maps_are_drawn_to_the_teachers(pretrain: ModuleType) -> None:
    torch.manual_seed(0)
    network = pretrain.Guided(create_model("yolo11n", 3), 1.0).double()
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    losses = []
    for _ in range(8):
        loss = network(images).guidance
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    reached = {
        name.split(".")[0] for name, p in network.model.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert reached == {name.split(".")[0] for name, _ in network.model.named_parameters()} - {"head"}


def test_a_run_resumes_exactly_and_leaves_weights_to_start_from(
    pretrain: ModuleType, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pretrain.main([str(photos), f"--out={whole}", *OPTIONS])
    with monkeypatch.context() as patch:
        train_epoch, steps = loop.train_epoch, []

        def stop_in_the_second(run: Any, state: Any, progress: Any, stop: Any, callbacks: Any) -> None:
            steps.append(state.step)
            if len(steps) == 2:
                stop.set()
            train_epoch(run, state, progress, stop, callbacks)

        patch.setattr(loop, "train_epoch", stop_in_the_second)
        with pytest.raises(Exception, match="interrupted after 1 of 2 epochs and 1 of"):
            pretrain.main([str(photos), f"--out={parts}", *OPTIONS])
    pretrain.main([str(photos), f"--resume={parts}"])
    first, second = (load_file(run / "last.safetensors") for run in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)
    model, info = load_weights(parts / "last.safetensors")
    assert info.model == "yolo11n"
    assert model.state_dict().keys() == create_model("yolo11n", len(info.categories)).state_dict().keys()
