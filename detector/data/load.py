"""From the options of a command to a dataset: the place where the format of the data is chosen.

To add a format: a module in `formats` that reads it into an `AnnotationFile`, and a branch in `annotation_format`, `splits_in`
and `read_split`; every command then reads it. For `detector convert` to write it, too: a module in `conversion`.
"""

from pathlib import Path

from detector.config import AnnotationFormat, PathsConfig
from detector.data.annotation_file import AnnotationFile, Complain, refuse
from detector.data.coco import CocoDataset
from detector.data.formats.voc import read_voc_split
from detector.data.formats.voc_layout import find_voc_splits
from detector.data.formats.yolo import read_yolo_split
from detector.data.formats.yolo_layout import is_yolo, yolo_splits
from detector.data.layouts import Split, SplitPaths, coco_splits, find_undivided, split_paths
from detector.data.remote_images import is_elsewhere
from detector.errors import DataError
from detector.structures import Categories


def load_split(
    data: str | None,
    split: Split,
    categories: Categories | None = None,
    paths: PathsConfig = PathsConfig(),  # noqa: B008
    polygons: bool = False,
) -> CocoDataset:
    """A split of the dataset in the folder `data`, or at the explicit `paths`.

    COCO annotations are read where there are any, of whatever split; else YOLO labels; else Pascal VOC. categories, polygons:
    see `CocoDataset.from_annotations`. Raises ConfigError or DataError, one line that names the option or the file.
    """
    return CocoDataset.from_annotations(*read_split(data, split, paths, categories), categories, polygons)


def annotation_format(data: Path) -> AnnotationFormat:
    """The format of the annotations of a dataset; coco if it looks like none."""
    if data.is_file() or coco_splits(data):
        return "coco"
    return "yolo" if is_yolo(data) else "voc" if find_voc_splits(data) else "coco"


def splits_in(data: Path) -> list[Split | None]:
    """The splits of a dataset; [None] if it is not divided. Raises DataError if there is no such folder or file."""
    if not data.exists():
        raise DataError(f"{data}: there is no such dataset; give a folder or a COCO annotation file")
    match annotation_format(data):
        case "coco":
            found = [] if data.is_file() else coco_splits(data)
        case "yolo":
            found = yolo_splits(data)
        case "voc":
            return list(find_voc_splits(data))
    return [*found] or [None]


def require_here(data: str) -> None:
    """Raise DataError for a dataset at a URL."""
    if is_elsewhere(data):
        raise DataError(
            f"{data}: annotations must be on this machine: give --paths.train_json with the file and"
            " --paths.train_images with the URL of the images, and the same for val (train, evaluate and doctor take them)"
        )


def read_split(
    data: str | None,
    split: Split | None,
    paths: PathsConfig = PathsConfig(),  # noqa: B008
    categories: Categories | None = None,
    complain: Complain = refuse,
) -> tuple[AnnotationFile, SplitPaths]:
    """The annotations of a split as they stand in its files, before they are checked, and where its images lie.

    split: None for a dataset that is not divided, whose `data` may also be a COCO file; categories: whose ids a format without
    ids takes; complain: gets the error for each label in a text or XML file that can't be read, which is then skipped; by
    default raises it. Raises as `load_split` for what is wrong with a dataset as a whole.
    """
    if data is not None and not (split is not None and paths.names(split)):
        require_here(data)
        match annotation_format(Path(data)):
            case "yolo":
                return read_yolo_split(Path(data), split, complain)
            case "voc":
                return read_voc_split(Path(data), split, categories, complain)
    if split is None:
        assert data is not None
        places = find_undivided(Path(data))
    else:
        places = split_paths(data, paths, split)
    return AnnotationFile.parse(places.annotations), places
