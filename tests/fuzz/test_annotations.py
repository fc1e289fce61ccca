"""Annotation files at random: a dataset or one line comes of them, never a traceback, never a hang."""

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.data.coco import CocoDataset
from detector.data.layouts import SplitPaths
from detector.errors import DetectorError
from detector.evaluation.coco_metrics import coco_metrics
from fuzz.mutate import fuzz

NAMES = ("a.png", "sub/b.png", "c.png")
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        "",
        "1",
        "-1",
        "1.0",
        "nan",
        "a.png",
        "../a.png",
        "sub",
        "\ud800",
        "\0",
        "\x1b[2J",
        "x" * 5000,
    ),
    *(0, 1, 2, -1, 40, 0.0, -0.0, 1.0, 1.5, 1e-320, 1e300, -1e300, math.nan, math.inf, -math.inf),
    *(2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**400, [], {}, [[]], [1, 2, 3, 4], [0, 0, 0, 0], [-5, -5, 1e9, 1e9]),
    *([1, 2, 3], ["1", 2, 3, 4], [[1, 2, 3, 4, 5, 6]], [[1, 2, 3]], {"counts": "abc", "size": [30, 40]}, {"id": 1}),
)


def good_content(chance: random.Random) -> dict[str, Any]:
    annotations = [
        {
            "id": index,
            "image_id": chance.choice((5, 12, 90)),
            "category_id": chance.choice((3, 7)),
            "bbox": [chance.uniform(0, 20), chance.uniform(0, 15), chance.uniform(1, 20), chance.uniform(1, 15)],
            "area": chance.uniform(1, 300),
            "iscrowd": int(chance.random() < 0.1),
            "segmentation": [[1, 1, 9, 1, 9, 9]],
        }
        for index in range(chance.randrange(8))
    ]
    return {
        "images": [
            {"id": number, "file_name": name, "width": 40, "height": 30}
            for number, name in zip((12, 5, 90), NAMES, strict=True)
        ],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def mutate(content: dict[str, Any], chance: random.Random) -> None:
    """Put a strange value at a random place, take something away, or double it."""
    holder: Any = content
    key: Any = chance.choice(list(holder))
    while isinstance(holder[key], dict | list) and holder[key] and chance.random() < 0.9:
        holder = holder[key]
        key = chance.choice(list(holder)) if isinstance(holder, dict) else chance.randrange(len(holder))
    action = chance.random()
    if action < 0.15:
        del holder[key]
    elif action < 0.3 and isinstance(holder, list):
        holder.insert(chance.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
    elif action < 0.35:
        section = chance.choice(("annotations", "images"))
        field, value = chance.choice(("bbox", "area", "iscrowd", "width", "file_name", "id")), chance.choice(VALUES)
        for entry in content[section] if isinstance(content.get(section), list) else []:
            if isinstance(entry, dict):
                entry[field] = copy.deepcopy(value)
    else:
        holder[key] = copy.deepcopy(chance.choice(VALUES))


def text_of(chance: random.Random) -> bytes:
    content = good_content(chance)
    for _ in range(chance.randrange(4)):
        if content:
            mutate(content, chance)
    text = bytearray(json.dumps(content).encode())
    if chance.random() < 0.3:  # the text itself: bytes changed, a part doubled, cut off
        for _ in range(chance.randrange(1, 5)):
            text[chance.randrange(len(text))] = chance.randrange(256)
        start, end = sorted((chance.randrange(len(text)), chance.randrange(len(text))))
        match chance.randrange(3):
            case 0:
                text[end:end] = text[start:end]
            case 1:
                del text[end:]
    return bytes(text)


def use(paths: SplitPaths) -> None:
    """Load as training and evaluation do, and hold the dataset to what it promises."""
    dataset = CocoDataset.load(paths)
    assert all("\n" not in line for line in dataset.problems)
    assert len(dataset.fingerprint()) == 64
    assert len(dataset.objects_per_class()) == len(dataset.categories)
    for index in range(len(dataset)):
        boxes, (width, height) = dataset.boxes(index), dataset.size(index)
        assert ((boxes >= 0) & (boxes <= np.float32([width, height] * 2))).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        areas = dataset.annotations(index).areas
        assert ((areas >= 0) & (areas <= 1e10)).all()
    truth = dataset.ground_truth()
    perfect = [{**entry, "score": 1.0} for entry in truth["annotations"]]
    names = dict(enumerate(map(str, range(len(dataset.categories)))))
    coco_metrics(truth, perfect, names=names)


@pytest.mark.slow
def test_no_annotation_file_brings_a_traceback_or_a_hang(tmp_path: Path) -> None:
    paths = SplitPaths(tmp_path / "instances_val.json", tmp_path)
    (tmp_path / "sub").mkdir()
    for name in NAMES:
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    cases, loaded, lines = 0, 0, set()

    def check(rng: random.Random) -> None:
        nonlocal cases, loaded
        cases += 1
        paths.annotations.write_bytes(text_of(rng))
        try:
            use(paths)
            loaded += 1
        except DetectorError as error:
            lines.add(str(error))

    fuzz(check)
    print(f"{cases} annotation files: {loaded} loaded, {cases - loaded} refused with {len(lines)} different lines")
    assert loaded
    assert lines
    assert not [line for line in lines if "\n" in line]
