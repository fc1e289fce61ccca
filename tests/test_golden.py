"""The models are the published ones: same names, parameters, outputs, loss and gradients.

Computed in float64, in which every processor and number of threads gives the same to 1e-9 (DESIGN.md, section 5).
"""

import json
from pathlib import Path

import pytest
import torch
from golden_weights import golden_values
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detector.boxes import make_anchors
from detector.config import LossConfig
from detector.models.catalog import create_model
from detector.nn.conv import fuse_conv_bn
from detector.structures import Batch, Targets
from detector.training.loss import detection_loss
from detector.weights.published.names import from_published, to_published

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
NAMES = [
    *("yolo11n", "yolo11s", "yolo11m", "yolo11l", "yolo11x"),
    *("yolov9t", "yolov9s", "yolov9m", "yolov9c", "yolov9e"),
]
PUBLISHED_GFLOPS = {"yolo11n": 6.5, "yolo11s": 21.5, "yolo11m": 68.0, "yolo11l": 86.9, "yolo11x": 194.9}

pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason="the golden values lie outside the repository")


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads((GOLDEN / "models.json").read_text())


def golden_model(name: str, entries: list) -> torch.nn.Module:
    model = create_model(name, 80)
    model.load_state_dict(from_published(golden_values(entries), name))
    return model.double().train()


def golden_images() -> Tensor:
    return torch.rand(2, 3, 192, 256, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_outputs_in_training_mode(name: str, golden: dict) -> None:
    model = golden_model(name, golden[name]["state"])
    with torch.no_grad():
        raw = model(golden_images())
    expected = load_file(GOLDEN / f"{name}.safetensors")
    assert (raw.boxes[0] - expected["train_boxes"]).abs().max() < 1e-9
    assert (raw.scores[0] - expected["train_scores"]).abs().max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_flops(name: str, golden: dict) -> None:
    with torch.device("meta"):
        model = create_model(name, 80).eval()
    assert sum(p.numel() for p in model.parameters()) == golden[name]["trainable_parameters"]
    normalized = 0

    def count(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal normalized
        normalized += output.numel()

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 640, 640, device="meta"))
    # the golden count charges 8 operations for each normalized value
    assert (counter.get_total_flops() + 8 * normalized) / 1e9 == pytest.approx(golden[name]["gflops_640"], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED_GFLOPS)
def test_flops_of_the_fused_network_are_the_published_ones(name: str) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        fuse_conv_bn(create_model(name, 80))(torch.zeros(1, 3, 640, 640))
    assert counter.get_total_flops() / 1e9 == pytest.approx(PUBLISHED_GFLOPS[name], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients(name: str, golden: dict) -> None:
    model = golden_model(name, golden[name]["state"])
    images = golden_images()
    listed = golden[name]["targets"]
    size = images.new_tensor([256, 192, 256, 192])
    center, extent = (torch.tensor(listed["cxcywh_normalised"]) * size).chunk(2, dim=1)
    boxes = torch.cat((center - extent / 2, center + extent / 2), dim=1)
    of_image = [torch.tensor(listed["batch_idx"]) == i for i in range(2)]
    labels = torch.tensor(listed["cls"]).long()
    targets = tuple(Targets(boxes[mask], labels[mask], torch.zeros(0, 4)) for mask in of_image)
    batch = Batch((images * 255).to(torch.uint8), targets)

    raw = model(images)
    anchors = make_anchors([(24, 32), (12, 16), (6, 8)], (8, 16, 32), like=raw.boxes)
    losses = detection_loss(raw, anchors, batch, LossConfig())
    expected = golden[name]["loss"]
    assert losses.box.item() == pytest.approx(expected["box"], rel=1e-5)
    assert losses.classification.item() == pytest.approx(expected["cls"], rel=1e-5)
    assert losses.distribution.item() == pytest.approx(expected["dfl"], rel=1e-5)
    loss = losses.total() * 2
    assert loss.item() == pytest.approx(golden[name]["loss_sum_times_batch"], rel=1e-5)

    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    gradients = to_published({**model.state_dict(), **{key: p.grad for key, p in model.named_parameters()}}, name)
    for key, norm in golden[name]["grad_norm"].items():
        assert gradients[key].norm().item() == pytest.approx(norm, rel=1e-4), key


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_names_round_trip(name: str, golden: dict) -> None:
    entries = golden[name]["state"]
    state = golden_values(entries)
    back = to_published(from_published(state, name), name)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
