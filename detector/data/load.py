"""From the options of a command to a dataset: the place where the format of the data is chosen.

To add a format: a module in `formats` that reads it into an `AnnotationFile`, and a branch in `read_split`; `load_split` makes
the dataset of it by `CocoDataset.from_annotations`.
"""

from pathlib import Path

from detector.config import PathsConfig
from detector.data.annotation_file import AnnotationFile
from detector.data.coco import CocoDataset
from detector.data.formats.yolo import Complain, read_yolo_split, refuse
from detector.data.formats.yolo_layout import is_yolo, yolo_splits
from detector.data.layouts import Split, SplitPaths, coco_splits, split_paths
from detector.structures import Categories


def load_split(
    data: str | None,
    split: Split,
    categories: Categories | None = None,
    paths: PathsConfig = PathsConfig(),  # noqa: B008
) -> CocoDataset:
    """A split of the dataset in the folder `data`, or at the explicit `paths`.

    COCO annotations are read where there are any, of whatever split; else YOLO labels. categories: see `CocoDataset.load`.
    Raises ConfigError or DataError, one line that names the option or the file.
    """
    return CocoDataset.from_annotations(*read_split(data, split, paths), categories)


def read_split(
    data: str | None,
    split: Split,
    paths: PathsConfig = PathsConfig(),  # noqa: B008
    complain: Complain = refuse,
) -> tuple[AnnotationFile, SplitPaths]:
    """The annotations of a split as they stand in its files, before they are checked, and where its images lie.

    complain: gets the error for each label in a text file that can't be read, which is then skipped; by default raises
    it. Raises as `load_split` for what is wrong with a file as a whole.
    """
    named = getattr(paths, f"{split}_json"), getattr(paths, f"{split}_images")
    if data is not None and named == (None, None) and not coco_splits(Path(data)) and is_yolo(Path(data)):
        return read_yolo_split(Path(data), split, complain)
    places = split_paths(data, paths, split)
    return AnnotationFile.parse(places.annotations), places


def splits_in(data: Path) -> list[Split]:
    """The splits that the dataset in a folder has."""
    return coco_splits(data) or yolo_splits(data)
