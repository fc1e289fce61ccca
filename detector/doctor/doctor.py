"""The command: looks at all splits of a dataset, tells what it found, and writes a mended copy if asked to."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detector.config import DoctorConfig, PathsConfig
from detector.data.annotation_file import AnnotationFile
from detector.data.coco import CocoDataset
from detector.data.layouts import SPLITS, Split
from detector.data.load import read_split, require_here, splits_in
from detector.doctor.annotations import check_annotations
from detector.doctor.classes import check_classes
from detector.doctor.columns import Columns
from detector.doctor.findings import EXAMPLES, Example, Finding, View, exit_code, merged, summary
from detector.doctor.fix import Source, require_new, write_mended
from detector.doctor.images import check_images, look_at
from detector.doctor.labels import LOWEST_SCORE, check_labels, detect
from detector.doctor.misread import with_pixels
from detector.doctor.object_sizes import check_object_sizes
from detector.doctor.report import print_findings, write_report
from detector.doctor.splits import Known, check_against, check_splits
from detector.errors import ConfigError, DataError, printable
from detector.images.input_size import InputSize
from detector.images.read import IMAGE_SUFFIXES
from detector.inference.detector import Detector
from detector.structures import Categories
from detector.utils.fileio import require_apart, require_writable

DEFAULT_SIZE = 640
READ_OTHERWISE = re.compile("taken from|read as|read from|merged with|written as")
"""In what a dataset notices: what it reads otherwise than it is written. For the rest there are checks."""


def doctor(config: DoctorConfig) -> int:
    """Look at the dataset, print what was found, write what is asked for. Returns the exit code, see `EXIT_CODES`.

    Raises DetectorError kinds for a folder without a dataset, files that are no annotations, and weights of other classes.
    """
    if config.out is not None:
        require_writable(Path(config.out))
    if config.fix is not None:
        require_new(Path(config.fix))
    detector = None
    if config.weights is not None:
        detector = Detector.load(
            config.weights, image_size=config.image_size, conf=LOWEST_SCORE, iou=0.7, device=config.device
        )
    input_size = InputSize.of(config.image_size or (DEFAULT_SIZE if detector is None else detector.image_size))
    complaints: list[Finding] = []
    sources = read_sources(config.data, config.paths, complaints, None if detector is None else detector.categories)
    if config.out is not None:
        outputs = [Path(config.out) / name for name in ("doctor.json", "doctor.html")]
        require_apart([config.weights, *(source.file.path for source in sources)], outputs)
    data = config.data or str(sources[0].paths.annotations)
    datasets = {} if detector is None else load_for(detector, sources)
    splits = [Columns.of(source.split, source.file, source.paths) for source in sources]
    findings = merged(
        [
            *complaints,
            *refusals(sources),
            *check_dataset(splits, input_size, is_numbered(sources)),
            *([] if config.annotations_only else check_files(splits, config.against)),
            *([] if detector is None else contradictions(detector, datasets)),
        ]
    )
    print_findings(findings)
    for source in sources:
        if config.annotations_only and not isinstance(source.paths.images, Path):
            print(
                printable(
                    f"not looked for, as that would open them: the images of {source.split} at {source.paths.images}"
                )
            )
    if config.out is not None:
        facts: dict[str, Any] = {
            "data": data,
            "images": {each.split: len(each.names) for each in splits},
            "annotations": {each.split: len(each.xywh) for each in splits},
            "image_size": list(input_size),
            "weights": config.weights,
            "against": config.against,
            "images_opened": not config.annotations_only,
        }
        print(f"written: {', '.join(map(str, write_report(findings, facts, Path(config.out))))}")
    if config.fix is not None:
        for line in write_mended(sources, Path(config.fix)):
            print(printable(line))
        print(f"written: {config.fix}, a copy; {data} is as it was")
    return exit_code(findings)


def splits_of(data: str | None, paths: PathsConfig) -> list[Split | None]:
    """The splits that options name, and those of the dataset `data`. Raises DataError or ConfigError if there is none."""
    named = [split for split in SPLITS if paths.names(split)]
    if data is None and not named:
        raise ConfigError("there is no dataset: give its folder, or --paths.train_json and --paths.train_images")
    if data is None:
        return [*named]
    require_here(data)
    found = splits_in(Path(data))
    return [*named, *(split for split in found if split not in named)]


def read_sources(
    data: str | None, paths: PathsConfig, complaints: list[Finding], categories: Categories | None = None
) -> list[Source]:
    """The splits of the dataset; one that is not divided is taken for the training split, as `detector convert` does.

    complaints: gets a finding for the labels of a split that can't be read, and for what was read otherwise than it is
    written; categories: see `read_split`. Raises DataError if there is no dataset, or a file is none.
    """
    sources = []
    for found in splits_of(data, paths):
        errors: list[DataError] = []
        try:
            file, places = read_split(data, found, paths, categories, errors.append)
        except DataError:
            if errors:  # without what is skipped there may be nothing left to read
                raise errors[0] from None
            raise
        split = found or "train"
        if found is None:
            what, remedy = (
                "datasets that are not divided, looked at as train",
                "detector convert --split 0.8,0.2 divides it",
            )
            complaints.append(Finding("undivided", "note", what, {split: 1}, remedy))
        sources.append(Source(split, file, places))
        if errors:
            examples = tuple(Example(str(error)) for error in errors[:EXAMPLES])
            what, remedy = "labels in text or XML files that training refuses", "correct them as the examples say"
            complaints.append(Finding("label-unreadable", "error", what, {split: len(errors)}, remedy, examples))
        complaints += [noticed(what, split, count) for what, count in file.noticed.items() if count]
    return sources


def noticed(what: str, split: Split, count: int) -> Finding:
    """Something that is read otherwise than it is written; each kind has a remedy of its own, and so a finding."""
    return Finding("noticed", "note", what, {split: count}, f"see the data page ({what})")


def is_numbered(sources: Sequence[Source]) -> bool:
    """Whether category ids are the class numbers of YOLO labels, or counted, as for Pascal VOC."""
    return sources[0].paths.annotations.suffix.lower() != ".json"


def refusals(sources: Sequence[Source]) -> Iterator[Finding]:
    """What training says to a split that it refuses, and what it reads otherwise than it is written."""
    categories: Categories | None = None
    for source in sources:
        file = unread(source)
        try:
            dataset = CocoDataset.from_annotations(file, source.paths, categories)
        except DataError as error:
            what, remedy = "splits that training refuses", "correct what the example and the findings below say"
            yield Finding("refused", "error", what, {source.split: 1}, remedy, (Example(str(error)),))
        else:
            categories = categories or dataset.categories
            for what, count in file.noticed.items():
                if count and READ_OTHERWISE.search(what):
                    yield noticed(what, source.split, count)


def load(source: Source, categories: Categories | None) -> CocoDataset:
    """The dataset as training makes it."""
    return CocoDataset.from_annotations(unread(source), source.paths, categories)


def unread(source: Source) -> AnnotationFile:
    """The annotations, of which nothing is noticed yet."""
    return AnnotationFile(source.file.path, source.file.content)


def check_dataset(
    splits: Sequence[Columns], input_size: InputSize, numbered: bool, tiles: int | None = None
) -> Iterator[Finding]:
    """All checks that open no image; numbered: see `check_classes`; tiles: see `check_object_sizes`."""
    for columns in splits:
        yield from check_annotations(columns)
    yield from check_classes(splits, numbered)
    yield from check_object_sizes([with_pixels(columns) for columns in splits], input_size, tiles)


def check_files(splits: Sequence[Columns], against: str | None) -> Iterator[Finding]:
    """The checks that open each image; against: another folder of images."""
    known: list[Known] = []
    for columns in splits:
        present = columns.present
        looks = dict(zip(present, look_at([columns.image(image) for image in present]), strict=True))
        yield from check_images(columns, looks)
        first_of = columns.first_of
        known += [
            Known(columns.split, columns.names[image], View(columns.image(image)), look.fingerprint)
            for image, look in looks.items()
            if look.fingerprint is not None and first_of[image] == image
        ]
    yield from check_splits(known)
    if against is not None:
        folder = str(Path(against).resolve())
        yield from check_against(known, known_in(Path(folder)), folder)


def known_in(folder: Path) -> list[Known]:
    """The images in a folder and those below. Raises DataError if there are none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"--against: {folder} holds no images; name a folder of images")
    return [
        Known(str(folder), str(path.relative_to(folder)), View(path), look.fingerprint)
        for path, look in zip(paths, look_at(paths), strict=True)
        if look.fingerprint is not None
    ]


def load_for(detector: Detector, sources: Sequence[Source]) -> dict[Split, CocoDataset]:
    """The splits that training takes, with the classes of the weights. Raises DataError if theirs are others."""
    datasets = {}
    for source in sources:
        try:
            load(source, None)
        except DataError:  # a finding, see `refusals`
            continue
        datasets[source.split] = load(source, detector.categories)
    return datasets


def contradictions(detector: Detector, datasets: Mapping[Split, CocoDataset]) -> Iterator[Finding]:
    for split, dataset in datasets.items():
        yield from check_labels(dataset, detect(detector, dataset), split)


def advice(splits: Sequence[Columns], input_size: InputSize, data: str | None, tiles: int | None = None) -> str:
    """A line on the errors and warnings among what can be known without opening an image; empty if there is none.

    data: the folder of the dataset, if it is one; tiles: see `check_object_sizes`.
    """
    found = merged(check_dataset(splits, input_size, numbered=True, tiles=tiles))
    grave = [each for each in found if each.severity != "note"]
    if not grave:
        return ""
    codes = ", ".join(f"{each.code} {each.count:,}" for each in grave)
    more = "" if data is None else f"; detector doctor {shlex.quote(data)} tells more"
    return f"doctor: {summary(grave)}: {codes}{more}"
