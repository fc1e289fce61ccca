"""From the options of a command to a dataset: the place where the format of the data is chosen.

To add a format: a module beside this one that reads it into an `AnnotationFile`, and a branch in `load_split` that makes the
dataset of it by `CocoDataset.from_annotations`.
"""

from detector.config import PathsConfig
from detector.data.coco import CocoDataset
from detector.data.layouts import Split, split_paths
from detector.structures import Categories


def load_split(
    data: str | None,
    split: Split,
    categories: Categories | None = None,
    paths: PathsConfig = PathsConfig(),  # noqa: B008
) -> CocoDataset:
    """A split of the dataset in the folder `data`, or at the explicit `paths`.

    categories: see `CocoDataset.load`. Raises ConfigError or DataError, one line that names the option or the file.
    """
    return CocoDataset.load(split_paths(data, paths, split), categories)
