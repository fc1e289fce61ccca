"""Which files make up a split: the explicit paths of the configuration, else the layout of the data folder."""

from pathlib import Path

from detector.config import PathsConfig
from detector.data.layouts import Split, SplitPaths, find_split
from detector.errors import ConfigError


def split_paths(data: str | None, paths: PathsConfig, split: Split) -> SplitPaths:
    """Annotation file and picture folder of `split`. Raises ConfigError or DataError saying which option is missing."""
    annotations, images = getattr(paths, f"{split}_json"), getattr(paths, f"{split}_images")
    if annotations is not None and images is not None:
        return SplitPaths(Path(annotations), Path(images))
    if annotations is not None or images is not None:
        raise ConfigError(f"--paths.{split}_json and --paths.{split}_images belong together: give both or none")
    if data is None:
        raise ConfigError(
            f"there is no data set: give --data FOLDER, or --paths.{split}_json and --paths.{split}_images"
        )
    return find_split(Path(data), split)
