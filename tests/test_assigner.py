"""The assigner's chunks: they bound the memory and change nothing else."""

import subprocess
import sys

import pytest
import torch

from detector.boxes import make_anchors
from detector.nn.head import decode
from detector.structures import Predictions, RawPredictions, Targets
from detector.training.assigner import MAX_PAIRS, Assignment, assign, pad_targets

SIDE = 96
ANCHORS = make_anchors([(12, 12), (6, 6), (3, 3)], (8, 16, 32), like=torch.zeros(1))
COUNT = len(ANCHORS.points)
CLASSES = 3
CHUNKS = {"one object": 1, "seven objects": 7 * COUNT, "all": 2000 * COUNT}


def scene(counts: list[int], generator: torch.Generator, step: int = 1) -> list[Targets]:
    """Images of that many objects; a `step` above 1 puts their corners on a grid, so that many are equal."""
    targets = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * 0.8 * SIDE
        extent = torch.rand(count, 2, generator=generator) * 0.6 * SIDE + step
        boxes = (torch.cat((corner, corner + extent), dim=1) / step).round() * step
        targets.append(Targets(boxes, torch.randint(CLASSES, (count,), generator=generator), torch.zeros(0, 4)))
    return targets


def predictions_of(batch: int, generator: torch.Generator, spread: float) -> Predictions:
    boxes = torch.randn(batch, 64, COUNT, generator=generator) * spread
    return decode(RawPredictions(boxes, torch.randn(batch, CLASSES, COUNT, generator=generator) * spread), ANCHORS)


def same(one: Assignment, other: Assignment) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize(
    ("counts", "step", "spread"),
    [([0, 3, 40, 1], 1, 1.0), ([25, 0, 25], 16, 0.0), ([1500, 2], 1, 1.0), ([0, 0], 1, 1.0)],
    ids=["mixed", "ties", "crowded", "empty"],
)
def test_chunks_change_nothing(chunk: str, counts: list[int], step: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(len(counts) + step)
    targets = pad_targets(scene(counts, generator, step))
    predictions = predictions_of(len(counts), generator, spread)
    whole = assign(predictions, ANCHORS, targets, max_pairs=sum(counts) * COUNT + 1)
    assert same(assign(predictions, ANCHORS, targets, max_pairs=CHUNKS[chunk]), whole)
    assert bool(whole.foreground.any()) == (sum(counts) > 0)


@pytest.mark.parametrize("pairs", [1, MAX_PAIRS])
def test_of_equal_objects_the_first_owns_what_all_claim(pairs: int) -> None:
    box = torch.tensor([[20.0, 20.0, 76.0, 76.0]])
    generator = torch.Generator().manual_seed(0)
    predictions = predictions_of(2, generator, 1.0)
    found = [
        assign(
            predictions,
            ANCHORS,
            pad_targets([Targets(box.repeat(n, 1), torch.zeros(n, dtype=torch.int64), torch.zeros(0, 4))] * 2),
            pairs,
        )
        for n in (1, 5)
    ]
    assert found[0].foreground.any()
    assert same(found[0], found[1])


@pytest.mark.parametrize("pairs", [1, MAX_PAIRS])
def test_a_contested_anchor_goes_to_the_closest_object_around_it_even_one_that_does_not_claim_it(pairs: int) -> None:
    """Object 2 has ten better anchors than the contested one, yet fits it best of the three."""
    anchor = int(((ANCHORS.points - torch.tensor([44.0, 44.0])).abs().sum(1) < 1).nonzero()[0, 0])
    ten = ((ANCHORS.points - ANCHORS.points[anchor]).abs().amax(1) < 17).nonzero().flatten()
    ten = ten[ten != anchor][:10]
    boxes = torch.tensor([[16.0, 16, 80, 80], [17.0, 17, 81, 81], [14.0, 14, 80, 80]])
    predicted = torch.full((COUNT, 4), 500.0) + torch.tensor([0.0, 0, 1, 1])
    predicted[anchor] = torch.tensor([14.5, 14.5, 80, 80])
    predicted[ten] = boxes[2]
    scores = torch.full((COUNT, CLASSES), 0.01)
    scores[ten, 2] = 0.9
    scores[anchor, :2] = 0.9
    targets = pad_targets([Targets(boxes, torch.arange(3), torch.zeros(0, 4))])
    found = assign(Predictions(predicted[None], scores[None]), ANCHORS, targets, pairs)
    alone = [
        assign(
            Predictions(predicted[None], scores[None]),
            ANCHORS,
            pad_targets([Targets(boxes[i : i + 1], torch.tensor([i]), torch.zeros(0, 4))]),
        ).foreground[0, anchor]
        for i in range(3)
    ]
    assert [bool(claims) for claims in alone] == [True, True, False]
    assert found.object_index[0, anchor] == 2
    assert found.weights[0, anchor] > 0


CROWDED = """
import resource, torch
from detector.boxes import make_anchors
from detector.structures import Predictions, Targets
from detector.training.assigner import assign, pad_targets

anchors = make_anchors([(80, 80), (40, 40), (20, 20)], (8, 16, 32), torch.zeros(1))
corner = torch.rand(300, 2) * 320
target = Targets(torch.cat((corner, corner + 320), 1), torch.zeros(300, dtype=torch.long), torch.zeros(0, 4))
near = Predictions(torch.cat((anchors.points - 40, anchors.points + 40), 1)[None], torch.rand(1, 8400, 2))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
assign(near, anchors, pad_targets([Targets(target.boxes[:1], target.labels[:1], target.crowd_boxes)]))
before = peak()
assign(near, anchors, pad_targets([target]), max_pairs=2**17)
print(peak() - before)
"""


@pytest.mark.slow
def test_a_crowded_image_stays_within_the_bound() -> None:
    """300 objects of a quarter of the image: 2.5 million pairs."""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", CROWDED], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40
