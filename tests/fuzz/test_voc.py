"""Pascal VOC files at random: a dataset or one line comes of them, never a traceback, never a hang."""

import random
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from detector.data.load import load_split
from detector.errors import DetectorError
from fuzz.mutate import fuzz, mutated

GOOD = b"""<?xml version="1.0" encoding="utf-8"?>
<annotation><folder>x</folder><filename>a.png</filename>
<size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>dog &amp; cat</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></object>
<object><name>d\xc3\xb6g</name><difficult>1</difficult><bndbox><ymax>9</ymax><xmin>3</xmin><xmax>9</xmax><ymin>3</ymin></bndbox></object>
</annotation>
"""


@pytest.mark.slow
def test_xml_files_at_random(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    Image.new("RGB", (40, 30)).save(folder / "a.png")

    def check(rng: random.Random) -> None:
        (folder / "a.xml").write_bytes(mutated(rng, GOOD))
        with suppress(DetectorError):
            dataset = load_split(str(tmp_path), "train")
            boxes = dataset.boxes(0)
            assert (boxes >= 0).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert (boxes <= [*dataset.size(0)] * 2).all()

    fuzz(check)


@pytest.mark.slow
def test_lists_at_random(tmp_path: Path) -> None:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages" / f"{name}.png")
        (tmp_path / "Annotations" / f"{name}.xml").write_bytes(GOOD)

    def check(rng: random.Random) -> None:
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes(mutated(rng, b"a\nb\n"))
        with suppress(DetectorError):
            load_split(str(tmp_path), "train")

    fuzz(check)
