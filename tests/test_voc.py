"""Datasets with Pascal VOC annotations: found in their layouts, boxes as they stand, and errors that name file and object."""

import json
from pathlib import Path

import pytest
from PIL import Image

from detector.cli import main
from detector.data.coco import CocoDataset
from detector.data.layouts import Split
from detector.data.load import load_split
from detector.errors import ConfigError, DataError
from detector.structures import Categories
from detector.utils import xml_file

SIZE = "<size><width>40</width><height>20</height><depth>3</depth></size>"
BOX = "<bndbox><xmin>10</xmin><ymin>2</ymin><xmax>30.5</xmax><ymax>12</ymax></bndbox>"
DOG = f"<object><name>dog</name><difficult>0</difficult>{BOX}</object>"
HARD_CAT = f"<object><name> cat </name><truncated>1</truncated><difficult>1</difficult>{BOX}</object>"


def annotation(objects: str = DOG, filename: str = "", size: str = SIZE) -> str:
    return f"<annotation><filename>{filename}</filename>{size}{objects}</annotation>"


def put(folder: Path, files: dict[str, str | None], images: Path | None = None, suffix: str = ".jpg") -> Path:
    """Images of 40x20 pixels; files: the XML file of each, None for none."""
    for name, text in files.items():
        image = (images or folder) / f"{name}{suffix}"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20)).save(image)
        if text is not None:
            (folder / f"{name}.xml").parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.xml").write_text(text, encoding="utf-8")
    return folder


def standard(root: Path, files: dict[str, str | None], **lists: str) -> Path:
    put(root / "Annotations", files, root / "JPEGImages")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, text in lists.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    return root


def names_of(dataset: CocoDataset) -> list[str]:
    return [dataset.file_name(index) for index in range(len(dataset))]


def error_of(root: Path, split: Split = "train") -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        load_split(str(root), split)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---- what is read


def test_boxes_as_they_stand_difficult_objects_and_images_without_xml(tmp_path: Path) -> None:
    root = standard(tmp_path, {"b": annotation(DOG + HARD_CAT), "a": annotation(""), "c": None}, train="b\na\n\nc\n")
    dataset = load_split(str(root), "train")
    assert dataset.categories == Categories((1, 2), ("cat", "dog"))
    assert names_of(dataset) == ["b.jpg", "a.jpg", "c.jpg"]
    assert [dataset.image_id(index) for index in range(3)] == [1, 2, 3]
    assert [dataset.boxes(index).tolist() for index in range(3)] == [[[10, 2, 30.5, 12]], [], []]
    assert dataset.labels(0).tolist() == [1]
    assert dataset.crowd_boxes(0).tolist() == [[10, 2, 30.5, 12]]
    assert dataset.annotations(0).areas.tolist() == [205, 205]
    source = root / "ImageSets" / "Main" / "train.txt"
    assert dataset.problems == (
        f"{source}: images without an XML file, read as images without objects: 1",
        f"{source}: difficult objects, which are neither objects nor background, as iscrowd regions: 1",
    )
    assert dataset.read(0).image.shape == (20, 40, 3)


def test_the_classes_are_those_of_all_splits(tmp_path: Path) -> None:
    for split, name in (("train", "b"), ("val", "a"), ("test", "c")):
        put(tmp_path / split, {"x": annotation(DOG.replace("dog", name))})
    for split in ("train", "val", "test"):
        dataset = load_split(str(tmp_path), split)  # type: ignore[arg-type]
        assert dataset.categories == Categories((1, 2, 3), ("a", "b", "c"))
        assert dataset.labels(0).tolist() == [{"train": 1, "val": 0, "test": 2}[split]]


def test_the_classes_of_weights_are_found_by_name(tmp_path: Path) -> None:
    put(tmp_path / "train", {"a": annotation(DOG + HARD_CAT.replace("<difficult>1", "<difficult>0"))})
    weights = Categories((2, 5, 9), ("dog", "cow", "cat"))
    dataset = load_split(str(tmp_path), "train", weights)
    assert dataset.categories == weights
    assert dataset.labels(0).tolist() == [0, 2]
    with pytest.raises(DataError, match="its categories are not those of the training split or the weights"):
        load_split(str(tmp_path), "train", Categories((2, 5), ("dog", "cow")))


@pytest.mark.parametrize(
    ("xml", "images", "split"),
    [
        ("train", "train", "train"),
        ("valid", "valid", "val"),
        ("images/test", "images/test", "test"),
        ("train/Annotations", "train/JPEGImages", "train"),
        ("val/annotations", "val/images", "val"),
    ],
)
def test_layouts_with_a_folder_for_each_split(tmp_path: Path, xml: str, images: str, split: Split) -> None:
    put(tmp_path / xml, {"sub/a": annotation(), "b": annotation("")}, tmp_path / images, suffix=".PNG")
    assert names_of(load_split(str(tmp_path), split)) == ["b.PNG", "sub/a.PNG"]


def test_the_image_of_an_xml_file_is_that_of_its_name_else_the_one_it_names(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    put(folder, {"a": annotation(filename="C:\\\\photos\\\\b.jpg"), "x": annotation(filename="y.png")})
    put(folder, {"x": None}, suffix=".png")
    (folder / "x.png").rename(folder / "y.png")
    (folder / "x.jpg").unlink()
    dataset = load_split(str(tmp_path), "train")
    assert {name: len(dataset.boxes(index)) for index, name in enumerate(names_of(dataset))} == {"a.jpg": 1, "y.png": 1}
    put(folder, {"y": annotation("")}, suffix=".png")
    assert "y.xml: another XML file is of the same image, 'y.png'; remove one of them" in error_of(tmp_path)


def test_of_two_images_the_named_one(tmp_path: Path) -> None:
    put(tmp_path / "train", {"a": annotation()})
    put(tmp_path / "train", {"a": None}, suffix=".png")
    assert "train/a.xml: its image may be a.jpg or a.png; name one as <filename>" in error_of(tmp_path)
    (tmp_path / "train" / "a.xml").write_text(annotation(filename="a.png"))
    dataset = load_split(str(tmp_path), "train")
    assert {name: len(dataset.boxes(index)) for index, name in enumerate(names_of(dataset))} == {"a.jpg": 0, "a.png": 1}


def test_sizes_that_are_missing_come_from_the_images(tmp_path: Path) -> None:
    zero = SIZE.replace("40", "0")
    put(tmp_path / "train", {"a": annotation(size=""), "b": annotation(size=zero), "c": annotation()})
    dataset = load_split(str(tmp_path), "train")
    assert [dataset.size(index) for index in range(3)] == [(40, 20)] * 3
    assert "sizes of images missing in the XML files, read from the images: 2" in dataset.problems[0]


def test_coco_and_yolo_come_first(tmp_path: Path) -> None:
    put(tmp_path / "train", {"a": annotation()})
    (tmp_path / "data.yaml").write_text("train: train\nnames: [cow]\n")
    (tmp_path / "train" / "a.txt").write_text("")
    assert load_split(str(tmp_path), "train").categories.names == ("cow",)
    images = [{"id": 7, "file_name": "a.jpg", "width": 40, "height": 20}]
    content = {"images": images, "annotations": [], "categories": [{"id": 3, "name": "pig"}]}
    (tmp_path / "train" / "_annotations.coco.json").write_text(json.dumps(content))
    assert load_split(str(tmp_path), "train").categories.names == ("pig",)


# ---- errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "this can't be read as XML: no element found: line 1, column 12; write or export it again"),
        ("", "this can't be read as XML: no element found"),
        ("<annotations/>", "this is no Pascal VOC annotation: it begins with <annotations>, not <annotation>"),
        ("<?xml version='1.0' encoding='no-such'?><annotation/>", "this can't be read as XML: unknown encoding"),
        ("<annotation>&x;</annotation>", "this can't be read as XML: undefined entity"),
        (f"{'<a>' * 21}{'</a>' * 21}", "line 1: nested more than 20 deep"),
        (annotation(DOG + "<object><name/></object>"), "object 2: it has no <name>; write the name of its class"),
        (annotation("<object><name>a</name></object>"), "object 1: it has no <bndbox>; write its box as <bndbox>"),
        (
            annotation("<object><name>a</name><robndbox/></object>"),
            "object 1: it has a <robndbox> but no <bndbox>; write",
        ),
        (annotation(DOG.replace("<ymin>2</ymin>", "")), "object 1: <bndbox> has no <ymin>; write xmin, ymin"),
        (annotation(DOG.replace(">2<", ">nan<")), "object 1: ymin is 'nan': must be a number of pixels"),
        (annotation(DOG.replace(">2<", ">two<")), "object 1: ymin is 'two': must be a number of pixels"),
        (annotation(DOG.replace(">2<", ">1e300<")), "object 1: ymin is '1e300': must be a number of pixels"),
        (annotation(DOG.replace(">2<", ">13<")), "object 1: ymax is 12, less than ymin, 13; exchange them"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path / "train", {"a": annotation(), "b": text})
    assert error_of(tmp_path).startswith(f"{tmp_path / 'train' / 'b.xml'}: ")
    assert message in error_of(tmp_path)


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "declaration",
    [
        f'<!DOCTYPE annotation [<!ENTITY l0 "ha">{LAUGHS}]>',
        '<!DOCTYPE annotation [<!ENTITY l9 SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE annotation SYSTEM "http://127.0.0.1:9/a.dtd">',
    ],
    ids=["billion laughs", "file", "address"],
)
def test_entities_are_refused_before_they_unfold(tmp_path: Path, declaration: str) -> None:
    text = annotation(DOG.replace("dog", "&l9;"))
    put(tmp_path / "train", {"a": declaration + text})
    assert "a.xml: this can't be read as XML: line 1: <!DOCTYPE …> is not read here; remove it" in error_of(tmp_path)


def test_a_long_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "train", {"a": annotation()})
    monkeypatch.setattr(xml_file, "MAX_BYTES", 100)
    assert "a.xml: this can't be read as XML: more than 100 bytes, the limit of such a file" in error_of(tmp_path)


def test_an_error_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "train", {"a": "<annotation>\x1b[31m"})
    assert main(["convert", str(tmp_path), str(tmp_path / "out"), "--format", "coco"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'train' / 'a.xml'}: this can't be read as XML: ")
    assert not (tmp_path / "out").exists()


def test_missing_images_splits_and_classes_are_named(tmp_path: Path) -> None:
    put(tmp_path / "train", {"a": annotation(), "b": annotation()})
    assert "no val split: looked for ImageSets/Main/val.txt and {train,valid,test}/" in error_of(tmp_path, "val")
    assert "; splits found: train" in error_of(tmp_path, "val")
    (tmp_path / "train" / "b.jpg").unlink()
    assert f"1 of 2 images named in {tmp_path / 'train'} are not in {tmp_path / 'train'}" in error_of(tmp_path)
    flat = put(tmp_path / "flat", {"a": annotation("")})
    assert "splits found: none; all XML files are in" in error_of(flat)
    assert "divide them with detector convert --split" in error_of(flat)
    empty = put(tmp_path / "empty" / "train", {"a": annotation("")})
    assert f"{empty}: its XML files have no objects, so there are no classes" in error_of(empty.parent)


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ("a\nz\n", "train.txt: 'z' is listed, but there is neither "),
        ("a\na\n", "train.txt: 'a' is listed 2 times; remove all lines but one"),
        ("\n", "train.txt: this list of images is empty"),
    ],
)
def test_a_wrong_list_is_named(tmp_path: Path, listing: str, message: str) -> None:
    root = standard(tmp_path, {"a": annotation()}, train=listing)
    assert message in error_of(root)


def test_a_split_in_two_folders_is_named(tmp_path: Path) -> None:
    put(tmp_path / "val", {"a": annotation()})
    put(tmp_path / "valid", {"a": annotation()})
    assert "several val splits: " in error_of(tmp_path, "val")
