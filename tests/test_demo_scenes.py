"""The drawn dataset: from one seed, well-formed COCO, boxes that fit."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from detector.demo.demo import replace_earlier
from detector.demo.scenes import make_dataset
from detector.errors import DataError


def _digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_dataset(folder, seed=5, train=15, val=3, test=3)
    return folder


@pytest.fixture(scope="module")
def train(root: Path) -> dict[str, Any]:
    return json.loads((root / "annotations" / "instances_train.json").read_text())


def test_same_seed_same_bytes_and_other_seed_other_images(root: Path, tmp_path: Path) -> None:
    make_dataset(tmp_path / "again", seed=5, train=15, val=3, test=3)
    make_dataset(tmp_path / "other", seed=6, train=3, val=3, test=3)
    assert _digests(tmp_path / "again") == _digests(root)
    assert not set(_digests(tmp_path / "other").values()) & set(_digests(root).values())


def test_an_image_does_not_depend_on_how_many_follow(root: Path, tmp_path: Path) -> None:
    make_dataset(tmp_path, seed=5, train=4, val=3, test=3)
    long, short = _digests(root), _digests(tmp_path)
    assert all(long[name] == digest for name, digest in short.items() if name.startswith("train/"))


def test_splits_hold_different_images(root: Path) -> None:
    digests = _digests(root)
    assert len(set(digests.values())) == len(digests)


def test_images_have_the_size_that_is_stated(root: Path, train: dict[str, Any]) -> None:
    for image in train["images"]:
        with Image.open(root / "train" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])
    assert len({(image["width"], image["height"]) for image in train["images"]}) > 1


def test_boxes_are_tight_and_inside_the_image(train: dict[str, Any]) -> None:
    images = {image["id"]: image for image in train["images"]}
    for annotation in train["annotations"]:
        x, y, width, height = annotation["bbox"]
        image = images[annotation["image_id"]]
        assert x >= 0
        assert y >= 0
        assert x + width <= image["width"] + 0.01
        assert y + height <= image["height"] + 0.01
        assert 0 < annotation["area"] <= width * height
        if not annotation["iscrowd"]:
            points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in annotation["segmentation"]])
            outline = [*points.min(0), *points.max(0)]
            np.testing.assert_allclose(outline, [x, y, x + width, y + height], atol=0.2)


def test_objects_are_not_too_small(train: dict[str, Any]) -> None:
    images = {image["id"]: image for image in train["images"]}
    for annotation in train["annotations"]:
        image = images[annotation["image_id"]]
        scale = 224 / max(image["width"], image["height"])
        assert max(annotation["bbox"][2:]) * scale > 16


def test_ids_have_gaps_and_empty_and_crowd_images_exist(root: Path) -> None:
    for split in ("train", "val"):
        content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
        assert [category["id"] for category in content["categories"]] == [3, 7, 8, 21, 90]
        annotations = content["annotations"]
        assert [annotation["id"] for annotation in annotations] == list(range(1, len(annotations) + 1))
        assert {image["id"] for image in content["images"]} - {annotation["image_id"] for annotation in annotations}
        assert any(annotation["iscrowd"] for annotation in annotations)


def test_pycocotools_agrees_with_areas(root: Path) -> None:
    coco = COCO(root / "annotations" / "instances_train.json")
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        if annotation["iscrowd"]:
            assert mask.sum() == annotation["area"]
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert annotation["bbox"] == [
                columns[0],
                rows[0],
                len(range(columns[0], columns[-1] + 1)),
                np.ptp(rows) + 1,
            ]
        else:
            assert mask.sum() == pytest.approx(annotation["area"], rel=0.12)


def test_refuses_a_tiny_split_and_foreign_annotations(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="val=2"):
        make_dataset(tmp_path, train=3, val=2, test=3)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text('{"images": []}')
    with pytest.raises(DataError, match="instances_val"):
        make_dataset(tmp_path, train=3, val=3, test=3)
    assert not (tmp_path / "train").exists()


def test_the_demo_replaces_only_what_a_demo_made(tmp_path: Path) -> None:
    mine = tmp_path / "data" / "important"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(DataError, match="no demo made"):
        replace_earlier(tmp_path)
    assert mine.read_text() == "mine"
    own = tmp_path / "own"
    replace_earlier(own)
    (own / "train").mkdir()
    replace_earlier(own)
    assert [path.name for path in own.iterdir()] == [".detector-demo"]
