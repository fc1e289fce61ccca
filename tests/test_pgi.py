"""The auxiliary branch guides the backbone while training and leaves no trace afterwards."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from narrow_yolov9 import narrow_model
from safetensors.torch import load_file
from small_run import small_config
from torch import Tensor
from torch.nn import functional as F

import detector.training.loop as loop
import detector.training.loss as loss
from detector.boxes import make_anchors
from detector.config import LossConfig, TrainConfig
from detector.demo.scenes import make_dataset
from detector.models.base import scale_pixels
from detector.models.catalog import create_model
from detector.models.pgi import AuxiliaryBackbone, AuxiliaryNeck, WithAuxiliaryBranch, add_auxiliary
from detector.models.yolov9 import YOLOv9
from detector.nn.head import decode
from detector.structures import Batch, GuidedPredictions, RawPredictions, Targets
from detector.training.freeze import train_mode
from detector.training.loop import train
from detector.training.loss import Losses, detection_loss, training_loss
from detector.training.setup import set_up
from detector.training.step import take_step
from detector.weights.files import load_weights

STRIDES, SIDE = (8, 16, 32), 64
ANCHORS = make_anchors([(8, 8), (4, 4), (2, 2)], STRIDES, like=torch.zeros(1))


def a_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (2, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    boxes = torch.tensor([[4.0, 4, 40, 50], [20, 10, 60, 30]])
    targets = (Targets(boxes, torch.tensor([0, 2]), boxes[:0]), Targets(boxes[:1], torch.tensor([1]), boxes[:0]))
    return Batch(images, targets)


def model_of(name: str) -> YOLOv9:
    """yolov9t, or c or e with an eighth of its widths."""
    torch.manual_seed(0)
    model = create_model("yolov9t", 3) if name == "t" else narrow_model(name, 3)
    assert isinstance(model, YOLOv9)
    return model


def after_some_steps(name: str) -> WithAuxiliaryBranch:
    network, batch = WithAuxiliaryBranch(model_of(name)), a_batch()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    for _ in range(3):
        _, total = training_loss(network(scale_pixels(batch.images)), ANCHORS, batch, LossConfig())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return network


# ---- the networks


@pytest.mark.parametrize("name", ["t", "c", "e"])
def test_the_main_outputs_in_evaluation_mode_are_the_same_bits_without_the_branch(name: str) -> None:
    network = after_some_steps(name).eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        beside = decode(network(images).main, ANCHORS)
        alone = model_of(name)
        alone.load_state_dict(network.model.state_dict())
        without = alone.eval()(images)
    assert torch.equal(beside.boxes, without.boxes)
    assert torch.equal(beside.scores, without.scores)


@pytest.mark.parametrize("name", ["t", "c", "e"])
def test_the_main_outputs_in_training_mode_are_the_same_bits_without_the_branch(name: str) -> None:
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        beside, alone = WithAuxiliaryBranch(model_of(name))(images), model_of(name)(images)
    assert all(torch.equal(one, other) for one, other in zip(beside.main, alone, strict=True))
    assert [each.shape for each in beside.auxiliary] == [each.shape for each in alone]
    assert not any(torch.equal(one, other) for one, other in zip(beside.main, beside.auxiliary, strict=True))


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("t", ("backbone.",)),
        ("c", ("backbone.",)),
        ("e", ("backbone.first.",)),  # its second backbone is the main head's alone
    ],
)
def test_the_branch_reaches_the_backbone_and_nothing_else_of_the_network(name: str, reached: tuple[str, ...]) -> None:
    network = WithAuxiliaryBranch(model_of(name))
    raw = network(torch.rand(2, 3, SIDE, SIDE)).auxiliary
    (raw.boxes.square().sum() + raw.scores.square().sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.auxiliary.parameters())
    for key, parameter in network.model.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == key.startswith(reached), key


def test_both_losses_reach_every_parameter() -> None:
    """Else several processes, which wait for the gradient of each, would hang."""
    for name in ("t", "c", "e"):
        network, batch = WithAuxiliaryBranch(model_of(name)), a_batch()
        _, total = training_loss(network(scale_pixels(batch.images)), ANCHORS, batch, LossConfig())
        total.backward()
        assert all(p.grad is not None for p in network.parameters())


def test_each_size_has_its_branch() -> None:
    with torch.device("meta"):
        branches = {letter: type(add_auxiliary(create_model(f"yolov9{letter}", 3)).auxiliary) for letter in "tsmce"}
    assert branches == {**dict.fromkeys("tsme", AuxiliaryNeck), "c": AuxiliaryBackbone}


def test_other_families_train_as_they_are() -> None:
    with torch.device("meta"):
        model = create_model("yolo11n", 3)
    assert add_auxiliary(model) is model


def test_the_reversible_branch_is_its_diagram() -> None:
    """c: slices of the main P3, P4, P5 after the downsamplings to strides 8, 16, 32 of a backbone run from the image."""
    network = WithAuxiliaryBranch(model_of("c")).eval()
    images = torch.rand(1, 3, SIDE, SIDE)
    branch = network.auxiliary

    def up(x: Tensor, times: int) -> Tensor:
        return F.interpolate(x, scale_factor=times, mode="nearest")

    with torch.no_grad():
        maps, _ = network.model.features(images)
        (a,), (b0, b1), (c0, c1, c2) = [linear(x) for linear, x in zip(branch.linears, maps, strict=True)]
        second = branch.backbone
        x = second.stage2(second.stem[1](second.stem[0](images)))
        p3 = second.stage3(second.down3(x) + a + up(b0, 2) + up(c0, 4))
        p4 = second.stage4(second.down4(p3) + b1 + up(c1, 2))
        p5 = second.stage5(second.down5(p4) + c2)
        expected, got = branch.head((p3, p4, p5)), network(images).auxiliary
    assert (got.boxes - expected.boxes).abs().max() < 1e-4
    assert (got.scores - expected.scores).abs().max() < 1e-4


# ---- the loss


def test_the_loss_is_the_main_one_and_a_share_of_the_branchs_own() -> None:
    raw, batch = after_some_steps("t")(scale_pixels(a_batch().images)), a_batch()
    main, auxiliary = (detection_loss(each, ANCHORS, batch, LossConfig()) for each in raw)
    for share in (0.25, 1.0):
        shown, total = training_loss(raw, ANCHORS, batch, LossConfig(auxiliary=share))
        assert shown == main
        assert total == main.total() + share * auxiliary.total()
    assert main.total() != auxiliary.total()
    shown, total = training_loss(raw.main, ANCHORS, batch, LossConfig())
    assert shown == main
    assert total == main.total()


# ---- runs


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=1, train=8, val=3, test=3)
    return root


def tiny(data: Path, out: Path, auxiliary: float = 0.25) -> TrainConfig:
    return small_config(data, out, model="yolov9t", loss=LossConfig(auxiliary=auxiliary))


@pytest.fixture(scope="module")
def whole(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(tiny(scenes, out))
    return out


@pytest.mark.slow
def test_only_the_checkpoint_holds_the_branch(whole: Path) -> None:
    with torch.device("meta"):
        model = create_model("yolov9t", 5)
        branch = add_auxiliary(model).auxiliary
    content = torch.load(whole / "last.pt", weights_only=True)
    assert content["auxiliary"].keys() == branch.state_dict().keys()
    assert content["model"].keys() == content["ema"].keys() == model.state_dict().keys()
    for name in ("best.safetensors", "last.safetensors"):
        assert load_file(whole / name).keys() == model.state_dict().keys()
    load_weights(whole / "best.safetensors")


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(
    scenes: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def interrupted(*_: object) -> dict:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", interrupted)
        with pytest.raises(Exception, match=f"--resume {out}"):
            train(replace(tiny(scenes, out), train=replace(tiny(scenes, out).train, checkpoint_minutes=0.0)))
    train(replace(tiny(scenes, out), train=replace(tiny(scenes, out).train, checkpoint_minutes=0.0), resume=str(out)))
    one, two = (torch.load(folder / "last.pt", weights_only=True) for folder in (whole, out))
    for part in ("model", "auxiliary", "ema"):
        assert all(torch.equal(one[part][name], two[part][name]) for name in one[part]), part


@pytest.mark.slow
def test_a_run_without_the_branch_starts_from_the_same_weights(scenes: Path, tmp_path: Path) -> None:
    (_, with_branch), (run, without) = (
        set_up(tiny(scenes, tmp_path / str(weight), auxiliary=weight)) for weight in (0.25, 0.0)
    )
    assert run.network is without.model
    assert not without.auxiliary.state_dict()
    mine, other = with_branch.model.state_dict(), without.model.state_dict()
    assert all(torch.equal(mine[name], other[name]) for name in other)


def test_what_is_frozen_stays_while_the_branch_learns(scenes: Path, tmp_path: Path) -> None:
    config = tiny(scenes, tmp_path / "run")
    run, state = set_up(replace(config, train=replace(config.train, freeze=["backbone"])))
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    train_mode(run.network)
    take_step(run, state, [next(iter(run.loader))])
    for part, stays in (("model.backbone.", True), ("model.pooling.", False), ("auxiliary.pooling.", False)):
        same = [torch.equal(tensor, before[n]) for n, tensor in run.network.state_dict().items() if n.startswith(part)]
        assert all(same) if stays else not any(same), part


def test_a_step_teaches_the_branch_and_one_that_is_left_out_changes_nothing_in_it(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, state = set_up(tiny(scenes, tmp_path / "run"))
    assert isinstance(run.network, WithAuxiliaryBranch)
    batch = next(iter(run.loader))

    def bits() -> list[Tensor]:
        return [tensor.clone() for tensor in run.network.state_dict().values()]

    before = bits()
    take_step(run, state, [batch])
    assert sum(not torch.equal(*pair) for pair in zip(before, bits(), strict=True)) > 0.9 * len(before)
    before = bits()

    def spoilt(*arguments: object) -> Losses:
        return Losses(*(term * float("nan") for term in detection_loss(*arguments)))

    monkeypatch.setattr(loss, "detection_loss", spoilt)
    take_step(run, state, [batch])
    assert state.skipped_in_row == 1
    assert all(torch.equal(*pair) for pair in zip(before, bits(), strict=True))


def test_guidance_is_added_to_what_a_step_minimizes() -> None:
    raw = RawPredictions(torch.zeros(2, 64, 84), torch.zeros(2, 3, 84))
    losses, total = training_loss(raw, ANCHORS, a_batch(), LossConfig())
    guided, guided_total = training_loss(GuidedPredictions(raw, torch.tensor(3.0)), ANCHORS, a_batch(), LossConfig())
    assert guided == losses
    assert guided_total == total + 3
