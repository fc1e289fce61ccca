"""From the options of a command to a dataset: the place where the format of the data is chosen.

To add a format: a module in `formats` that reads it into an `AnnotationFile`, and a branch in `load_split` that makes the
dataset of it by `CocoDataset.from_annotations`.
"""

from pathlib import Path

from detector.config import PathsConfig
from detector.data.coco import CocoDataset
from detector.data.formats.yolo import read_yolo_split
from detector.data.formats.yolo_layout import is_yolo
from detector.data.layouts import Split, has_coco_splits, split_paths
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
    named = getattr(paths, f"{split}_json"), getattr(paths, f"{split}_images")
    if data is not None and named == (None, None) and not has_coco_splits(Path(data)) and is_yolo(Path(data)):
        annotations, places = read_yolo_split(Path(data), split)
        return CocoDataset.from_annotations(annotations, places, categories)
    return CocoDataset.load(split_paths(data, paths, split), categories)
