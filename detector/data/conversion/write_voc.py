"""Writes Pascal VOC annotations: Annotations/NAME.xml, JPEGImages/ and ImageSets/Main/SPLIT.txt."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from detector.data.conversion.content import LabeledImage, Output, Report
from detector.data.conversion.losses import corners_inside, count_losses, decimal
from detector.data.conversion.names import Names, require_suffixes, require_text
from detector.data.conversion.place import Place
from detector.data.formats.voc import CORNERS, FLAGS
from detector.data.formats.voc_layout import IMAGE_FOLDERS, LISTS, XML_FOLDERS
from detector.data.layouts import Split
from detector.utils.fileio import writing

PLACES = 6
"""Decimal places of coordinates in pixels."""


def write_voc(
    root: Path, splits: Mapping[Split, Output], categories: list[dict[str, Any]], place: Place, report: Report
) -> None:
    """`iscrowd` regions become difficult objects; classes without objects are lost, as nothing names them."""
    class_names = [entry["name"] for entry in categories]
    for name in class_names:
        require_text(name, "the class", "rename it with --class_map")
    used = {each.name for output in splits.values() for image in output.images for each in image.objects}
    report.lost["classes without objects"] += len(class_names) - len(used)
    by_name = sorted((entry for entry in categories if entry["name"] in used), key=lambda entry: entry["name"])
    count_losses(splits.values(), by_name, set(FLAGS), 1, report)
    names = Names(by_stem=True, report=report)  # all splits share the folders
    for split, output in splits.items():
        require_suffixes(output.images)
        listed = []
        for image in output.images:
            name = names.free(image.name)
            require_text(name, "the file name", "rename the image")
            place(image.path, root / IMAGE_FOLDERS[0] / name)
            tree = _tree(image, name, report)
            report.count(split, len(tree.findall("object")))
            file = (root / XML_FOLDERS[0] / name).with_suffix(".xml")
            with writing(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                tree.write(file, encoding="utf-8")
            listed.append(PurePosixPath(name).with_suffix("").as_posix())
        file = root / LISTS / f"{split}.txt"
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(listed) + "\n", encoding="utf-8")


def _tree(image: LabeledImage, name: str, report: Report) -> ElementTree:
    root = Element("annotation")
    _add(root, folder=IMAGE_FOLDERS[0], filename=PurePosixPath(name).name)
    width, height = image.size
    _add(SubElement(root, "size"), width=width, height=height, depth=3)
    _add(root, segmented=0)
    for each in image.objects:
        corners = corners_inside(image, each, report)
        if corners is not None:
            element = SubElement(root, "object")
            flags = {flag: int(bool(each.fields.get(flag, 0))) for flag in FLAGS}
            _add(element, name=each.name, pose="Unspecified", **flags, difficult=each.fields["iscrowd"])
            _add(
                SubElement(element, "bndbox"),
                **{field: decimal(value, PLACES) for field, value in zip(CORNERS, corners, strict=True)},
            )
    indent(root)
    return ElementTree(root)


def _add(parent: Element, **texts: str | int) -> None:
    for tag, text in texts.items():
        SubElement(parent, tag).text = str(text)
