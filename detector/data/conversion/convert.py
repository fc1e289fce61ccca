"""`detector convert`: datasets into one of another format, merged, divided, and with some of their classes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detector.config import ConvertConfig
from detector.data.conversion.classes import picked, renamed, united
from detector.data.conversion.content import LabeledImage, Output, Part, Report, read_part
from detector.data.conversion.divide import divided
from detector.data.conversion.place import Place
from detector.data.conversion.write_coco import write_coco
from detector.data.conversion.write_voc import write_voc
from detector.data.conversion.write_yolo import write_yolo
from detector.data.layouts import SPLITS, Split
from detector.data.load import splits_in
from detector.errors import ConfigError, printable
from detector.utils.fileio import require_writable, temporary_dir, writing

WRITERS = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}


def convert(config: ConvertConfig) -> None:
    """Write the dataset `config.out`, whole or not at all, and print what was read, written and lost.

    Raises ConfigError, DataError or WriteError, one line that names the option or the file.
    """
    out, report, place = Path(config.out), Report(), Place(config.images)
    if out.exists() or out.is_symlink():
        raise ConfigError(f"out: {out} exists; name a new folder, nothing is written over")
    require_writable(out.parent)
    parts = [read_part(path, split, report) for path in map(Path, config.sources) for split in splits_in(path)]
    for part in parts:
        counts = _counts(len(part.images), sum(len(image.objects) for image in part.images))
        print(printable(f"read: {part.source} ({part.format}), {part.split or 'not divided'}, {counts}"))
    if config.class_map:
        parts = renamed(parts, config.class_map)
    if config.classes is not None:
        parts = picked(parts, config.classes, report)
    categories = united(parts, report)
    outputs = _outputs(parts, config, report)
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_dir(out.parent) as folder:
        whole = folder / "dataset"
        WRITERS[config.format](whole, outputs, categories, place, report)
        with writing(out):
            whole.rename(out)
    _print_report(config, outputs, len(categories), place, report)


def _outputs(parts: Sequence[Part], config: ConvertConfig, report: Report) -> dict[Split, Output]:
    """The splits to write: as they were read, a dataset that is not divided as train, or divided anew."""
    if config.split is not None:
        header, ids = _common_header(parts, report), any(part.format == "coco" for part in parts)
        images = [image for part in parts for image in _with_licenses(part, header)]
        shares = divided(images, config.fractions, config.group, config.seed, report)
        return {split: Output(share, header, ids) for split, share in shares.items()}
    if any(part.split is None for part in parts):
        report.noticed.append("datasets that are not divided are written as train; --split 0.8,0.2 divides them")
    outputs: dict[Split, Output] = {}
    for split in SPLITS:
        chosen = [part for part in parts if (part.split or "train") == split]
        if chosen:
            header = _common_header(chosen, report)
            images = [image for part in chosen for image in _with_licenses(part, header)]
            outputs[split] = Output(images, header, any(part.format == "coco" for part in chosen))
    return outputs


def _common_header(parts: Sequence[Part], report: Report) -> dict[str, Any]:
    """The keys beside the lists of a COCO file that all parts have alike."""
    keys = dict.fromkeys(key for part in parts for key in part.header)
    common = {}
    for key in keys:
        values = [part.header.get(key) for part in parts]
        if all(value == values[0] for value in values):
            common[key] = values[0]
        else:
            report.lost[f"the key {key!r} of COCO files that differ in it"] += sum(key in part.header for part in parts)
    return common


def _with_licenses(part: Part, header: dict[str, Any]) -> list[LabeledImage]:
    """The images of a part, without the number of their license where the list of licenses is lost."""
    if "licenses" not in part.header or "licenses" in header:
        return part.images
    return [
        replace(image, fields={key: value for key, value in image.fields.items() if key != "license"})
        for image in part.images
    ]


def _print_report(config: ConvertConfig, splits: Iterable[Split], classes: int, place: Place, report: Report) -> None:
    for line in report.noticed:
        print(printable(f"noticed: {line}"))
    lost = {what: count for what, count in report.lost.most_common() if count}
    for what, count in lost.items():
        print(printable(f"not carried: {what}: {count:,}"))
    if not lost:
        print("not carried: nothing, the format holds all of it")
    for split in splits:
        print(f"written: {split}, {_counts(report.written[split, 'images'], report.written[split, 'objects'])}")
    done = ", ".join(f"{count:,} images {how}" for how, count in place.done.items())
    print(printable(f"written: {config.out} ({config.format}), {classes} classes, {done}"))


def _counts(images: int, objects: int) -> str:
    return f"{images:,} images with {objects:,} objects"
