"""Assignment and loss: properties, and brute force on small cases."""

import math

import pytest
import torch
from torch import Tensor

from detector.boxes import Anchors, complete_iou, make_anchors
from detector.config import LossConfig
from detector.nn.head import decode
from detector.structures import Batch, Predictions, RawPredictions, Targets
from detector.training.assigner import assign, centers_inside, pad_targets
from detector.training.loss import detection_loss, distribution_loss

SIZES, STRIDES = [(8, 8), (4, 4), (2, 2)], (8, 16, 32)
ANCHORS = make_anchors(SIZES, STRIDES, like=torch.zeros(1))
CLASSES = 3


def targets_of(boxes: list[list[float]], labels: list[int], crowds: list[list[float]] | None = None) -> Targets:
    return Targets(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(crowds or [], dtype=torch.float32).reshape(-1, 4),
    )


def random_raw(batch: int, seed: int = 0) -> RawPredictions:
    generator = torch.Generator().manual_seed(seed)
    count = len(ANCHORS.points)
    return RawPredictions(
        torch.randn(batch, 64, count, generator=generator), torch.randn(batch, CLASSES, count, generator=generator)
    )


def batch_of(*targets: Targets) -> Batch:
    return Batch(torch.zeros(len(targets), 3, 64, 64, dtype=torch.uint8), targets)


def brute_force(predictions: Predictions, anchors: Anchors, target: Targets) -> tuple[list[int], list[float]]:
    """Owner (-1: none) and weight of each anchor of one image, by loops, as the published loss defines it."""
    count, objects = len(anchors.points), len(target.labels)
    inside = [[False] * count for _ in range(objects)]
    overlap = [[0.0] * count for _ in range(objects)]
    metric = [[0.0] * count for _ in range(objects)]
    for i in range(objects):
        x1, y1, x2, y2 = target.boxes[i].tolist()
        half_w, half_h = max((x2 - x1) / 2, 8), max((y2 - y1) / 2, 8)
        for a in range(count):
            px, py = anchors.points[a].tolist()
            inside[i][a] = abs(px - (x1 + x2) / 2) < half_w and abs(py - (y1 + y2) / 2) < half_h
            if inside[i][a]:
                overlap[i][a] = max(complete_iou(target.boxes[i], predictions.boxes[0, a]).item(), 0)
                score = predictions.scores[0, a, target.labels[i]].item()
                metric[i][a] = math.sqrt(score) * overlap[i][a] ** 6
    claims = [sorted(range(count), key=lambda a: -metric[i][a])[:10] for i in range(objects)]
    claims = [[a for a in claims[i] if metric[i][a] > 0] for i in range(objects)]
    owner = [-1] * count
    for a in range(count):
        claimants = [i for i in range(objects) if a in claims[i]]
        if len(claimants) == 1:
            owner[a] = claimants[0]
        elif claimants:
            owner[a] = max(range(objects), key=lambda i: overlap[i][a])
    weight = [0.0] * count
    for i in range(objects):
        own = [a for a in range(count) if owner[a] == i]
        for a in own:
            largest = max(metric[i][b] for b in own)
            weight[a] = metric[i][a] / (largest + 1e-9) * max(overlap[i][b] for b in own)
    return owner, weight


@pytest.mark.parametrize("seed", range(8))
def test_assignment_equals_brute_force(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(6, 2, generator=generator) * 40
    extent = torch.rand(6, 2, generator=generator) * 30 + 3
    labels = torch.randint(CLASSES, (6,), generator=generator)
    target = Targets(torch.cat((corner, corner + extent), dim=1), labels, torch.zeros(0, 4))
    raw = random_raw(1, seed)
    predictions = decode(raw, ANCHORS)
    found = assign(predictions, ANCHORS, pad_targets([target]))
    owner, weight = brute_force(predictions, ANCHORS, target)
    assert found.foreground[0].tolist() == [i >= 0 for i in owner]
    assert [i if i >= 0 else 0 for i in owner] == found.object_index[0].tolist()
    assert torch.allclose(found.weights[0], torch.tensor(weight), rtol=1e-4, atol=1e-7)


def test_padding_changes_nothing() -> None:
    raw = random_raw(2)
    predictions = decode(raw, ANCHORS)
    few = targets_of([[4, 4, 40, 40]], [1])
    many = targets_of([[0, 0, 20, 20], [10, 10, 60, 50], [30, 5, 50, 30]], [0, 2, 1])
    both = assign(predictions, ANCHORS, pad_targets([few, many]))
    alone = assign(Predictions(predictions.boxes[:1], predictions.scores[:1]), ANCHORS, pad_targets([few]))
    assert torch.equal(both.foreground[:1], alone.foreground)
    assert torch.equal(both.weights[:1], alone.weights)


def test_a_thin_box_is_widened_for_the_center_test_only() -> None:
    thin = pad_targets([targets_of([[30, 10, 32, 50]], [0])])
    centers = ANCHORS.points[centers_inside(ANCHORS.points, thin.boxes)[0, 0]]
    assert (centers[:, 0] - 31).abs().max() < 8
    assert centers[:, 1].min() > 10
    assert centers[:, 1].max() < 50
    assert len(centers) > 0


def test_a_batch_without_objects_has_a_finite_loss_and_only_class_loss() -> None:
    raw = random_raw(2)
    raw = RawPredictions(raw.boxes.requires_grad_(), raw.scores.requires_grad_())
    losses = detection_loss(raw, ANCHORS, batch_of(targets_of([], []), targets_of([], [])), LossConfig())
    assert losses.box == 0
    assert losses.distribution == 0
    expected = 0.5 * torch.nn.functional.softplus(raw.scores).sum()
    assert torch.allclose(losses.classification, expected)
    losses.total().backward()
    assert raw.scores.grad is not None
    assert raw.scores.grad.isfinite().all()


def test_a_box_inside_a_crowd_region_adds_no_class_loss() -> None:
    raw = random_raw(1)
    crowd = [-200.0, -200.0, 264.0, 32.0]
    boxes = decode(raw, ANCHORS).boxes[0]
    clipped_width = boxes[:, 2].clamp(-200, 264) - boxes[:, 0].clamp(-200, 264)
    clipped_height = boxes[:, 3].clamp(-200, 32) - boxes[:, 1].clamp(-200, 32)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    ignored = clipped_width * clipped_height > 0.5 * area
    assert 0 < ignored.sum() < len(ignored)
    losses = detection_loss(raw, ANCHORS, batch_of(targets_of([], [], [crowd])), LossConfig())
    expected = 0.5 * torch.nn.functional.softplus(raw.scores[0, :, ~ignored]).sum()
    assert torch.allclose(losses.classification, expected)


def test_an_object_in_a_crowd_region_is_still_learnt() -> None:
    raw = random_raw(1)
    raw.scores.requires_grad_()
    target = targets_of([[4, 4, 44, 44]], [1], [[0, 0, 64, 64]])
    detection_loss(raw, ANCHORS, batch_of(target), LossConfig()).classification.backward()
    owned = assign(decode(raw, ANCHORS), ANCHORS, pad_targets([target])).foreground[0]
    assert owned.any()
    assert (raw.scores.grad[0, :, owned] != 0).all()


def exact_logits(distances: Tensor) -> Tensor:
    """Logits whose softmax puts its whole weight on the bins beside each distance."""
    logits = torch.full((*distances.shape, 16), -100.0)
    below = distances.floor().long()
    logits.scatter_(-1, below[..., None], torch.log(1 - (distances - below) + 1e-12)[..., None])
    return logits.scatter_(-1, below[..., None] + 1, torch.log(distances - below + 1e-12)[..., None])


def test_distribution_loss_is_the_entropy_at_the_best_logits() -> None:
    distances = torch.tensor([[0.25, 3.5, 7.75, 14.5]])
    share = distances - distances.floor()
    entropy = -(share * share.log() + (1 - share) * (1 - share).log()).mean()
    assert torch.allclose(distribution_loss(exact_logits(distances), distances), entropy[None], atol=1e-4)
    worse = distribution_loss(exact_logits(distances.roll(1, dims=1)), distances)
    assert worse > entropy


def test_a_distance_beyond_the_bins_is_clamped() -> None:
    logits = torch.randn(1, 4, 16)
    far = distribution_loss(logits, torch.full((1, 4), 40.0))
    assert torch.allclose(far, distribution_loss(logits, torch.full((1, 4), 14.99)))


def test_weights_scale_their_terms() -> None:
    raw, batch = random_raw(1), batch_of(targets_of([[4, 4, 40, 40]], [1]))
    one = detection_loss(raw, ANCHORS, batch, LossConfig(1, 1, 1))
    two = detection_loss(raw, ANCHORS, batch, LossConfig(2, 3, 4))
    assert torch.allclose(torch.stack(two), torch.stack(one) * torch.tensor([2.0, 3.0, 4.0]))
