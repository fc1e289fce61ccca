"""Detection on files: an annotated picture each, a sheet of attention maps if wanted, and one JSON of all detections."""

import os
import sys
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from detector.config import InferConfig
from detector.data.pictures import UnreadablePictureError, read_picture
from detector.errors import DataError
from detector.fileio import atomic_write, require_writable, write_json
from detector.inference.attention_maps import attention_layers, attention_maps
from detector.inference.attention_sheet import attention_sheet
from detector.inference.detector import Detector
from detector.inference.draw import draw_detections
from detector.inference.sources import find_pictures


def infer(config: InferConfig) -> int:
    """Detect in all pictures of `config.sources`; writes the annotated pictures and `detections.json` to `config.out`.

    An unreadable picture is named and left out; the exit code is then 1, else 0. Raises DetectorError kinds, and
    DataError if no picture was readable.
    """
    require_writable(Path(config.out))
    files = find_pictures(config.sources)
    detector = Detector.load(
        config.weights,
        image_size=config.image_size,
        conf=config.conf,
        iou=config.iou,
        max_detections=config.max_detections,
        classes=None if config.classes is None else [name.strip() for name in config.classes.split(",")],
        device=config.device,
    )
    if config.attention and not attention_layers(detector.model):
        print(
            f"--attention: the model of {config.weights} has no attention layers; the sheets show class activation alone",
            file=sys.stderr,
        )
    out = Path(config.out)
    names = output_names(files)
    sheets = sheet_names(names) if config.attention else []
    require_apart(files, [out / name for name in [*names, *sheets]])
    entries: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    unreadable = 0
    for image_id, (file, name) in enumerate(zip(files, names, strict=True), start=1):
        try:
            picture = read_picture(file)
        except UnreadablePictureError as error:
            unreadable += 1
            print(f"left out: {error}", file=sys.stderr)
            continue
        if config.attention:
            maps = attention_maps(detector, picture)
            found = maps.detections
            save_picture(out / sheets[image_id - 1], Image.fromarray(attention_sheet(picture, maps)))
        else:
            found = detector(picture)
        counts.update(found.names)
        for entry, category in zip(found.to_coco(image_id), found.names, strict=True):
            entries.append({**entry, "file_name": str(file), "category_name": category})
        save_picture(out / name, Image.fromarray(draw_detections(picture, found)))
    if unreadable == len(files):
        raise DataError(
            f"none of the {len(files)} pictures can be read (see above); give JPEG, PNG, WebP or TIFF files"
        )
    write_json(out / "detections.json", entries)
    if unreadable:
        print(f"left out: {unreadable} of {len(files)} pictures, named above", file=sys.stderr)
    summary = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing found"
    print(f"{len(files) - unreadable} pictures: {summary}")
    print(f"written: {out / 'detections.json'} and the annotated pictures beside it")
    return 1 if unreadable else 0


def output_names(files: Sequence[Path]) -> list[Path]:
    """Where the annotated pictures go below the output folder: as the files lie below the folder they share.

    JPEG and PNG keep their format, others become PNG, with .png after their old suffix.
    """
    resolved = [file.resolve() for file in files]
    shared = Path(os.path.commonpath([file.parent for file in resolved]))
    names: dict[Path, None] = {}
    for file in resolved:
        name = file.relative_to(shared)
        if name.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            name = name.with_name(f"{name.name}.png")
        names[_free(name, names)] = None  # b.webp becomes b.webp.png, which there may be already
    return list(names)


def sheet_names(names: Sequence[Path]) -> list[Path]:
    """Where the attention sheets go: beside the annotated pictures of these names, as photo_attention.jpg."""
    taken = dict.fromkeys(names)
    for name in names:
        taken[_free(name.with_name(f"{name.stem}_attention{name.suffix}"), taken)] = None
    return list(taken)[len(names) :]


def _free(name: Path, taken: Container[Path]) -> Path:
    """The name, with an underscore for each time that it is taken."""
    while name in taken:
        name = name.with_name(f"{name.stem}_{name.suffix}")
    return name


def require_apart(files: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raise DataError if an annotated picture would overwrite one of the pictures."""
    originals = {file.resolve() for file in files}
    for output in outputs:
        if output.resolve() in originals:
            raise DataError(f"--out: {output} is one of the pictures and would be overwritten; choose another folder")


def save_picture(path: Path, picture: Image.Image) -> None:
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    options = {} if kind == "PNG" else {"quality": 95}
    atomic_write(path, lambda temporary: picture.save(temporary, format=kind, **options))
