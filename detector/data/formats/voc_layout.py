"""Where a dataset with Pascal VOC annotations keeps its XML files and its images."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from detector.data.formats.yolo_layout import FOLDERS, read_lines
from detector.data.layouts import SPLITS, Split, files_below, files_in
from detector.errors import DataError
from detector.images.read import IMAGE_SUFFIXES

XML_FOLDERS = ("Annotations", "annotations")
IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
LISTS = Path("ImageSets", "Main")


@dataclass(frozen=True)
class VocPlace:
    """Where a split lies.

    xml, images: absolute paths of the folders, perhaps the same one; listing: the file that names the split's images, None
    where all in the folders belong to it.
    """

    xml: Path
    images: Path
    listing: Path | None = None

    @property
    def source(self) -> Path:
        """What stands for the split in messages."""
        return self.listing or self.xml

    def names(self) -> list[str] | None:
        """The paths of the split's images without suffix, as its list has them; None without a list."""
        if self.listing is None:
            return None
        counts = Counter(line.strip() for line in read_lines(self.listing) if line.strip())
        if not counts:
            raise DataError(f"{self.listing}: this list of images is empty; write the name of an image in each line")
        name, count = counts.most_common(1)[0]
        if count > 1:
            raise DataError(f"{self.listing}: {name!r} is listed {count} times; remove all lines but one")
        return list(counts)

    def xml_files(self) -> dict[str, Path]:
        """The XML files of the split, in order, by their path below the folder without suffix."""
        below = {_name(path, self.xml): path for path in files_below(self.xml, {".xml"})}
        names = self.names()
        return below if names is None else {name: below[name] for name in names if name in below}

    def image_files(self) -> dict[str, list[Path]]:
        """All images in the folder, in order, by their path below it without suffix."""
        below: dict[str, list[Path]] = {}
        for path in files_below(self.images, IMAGE_SUFFIXES):
            below.setdefault(_name(path, self.images), []).append(path)
        return below


def find_voc_splits(root: Path) -> dict[Split | None, VocPlace]:
    """The splits of the dataset in the folder `root`; that of a dataset that is not divided is None. Two layouts:

    lists     Annotations/ and JPEGImages/ (or annotations/, images/), ImageSets/Main/{train,val,test}.txt
    folders   {train,valid,test}/ or images/{train,valid,test}/: XML files beside the images, or two folders as above

    Raises DataError where a split is in several places.
    """
    root = Path(os.path.abspath(root))  # noqa: PTH100
    whole = _place(root)
    found: dict[Split | None, VocPlace] = {}
    for split in SPLITS:
        listing = root / LISTS / f"{split}.txt"
        if whole is not None and listing.is_file():
            found[split] = VocPlace(whole.xml, whole.images, listing)
    if found:
        return found
    for split in SPLITS:
        folders = [folder / name for folder in (root, root / "images") for name in FOLDERS[split]]
        places = [place for folder in folders if (place := _place(folder)) is not None]
        if len(places) > 1:
            shown = ", ".join(str(place.xml) for place in places)
            raise DataError(f"{root}: several {split} splits: {shown}; move all but one elsewhere")
        if places:
            found[split] = places[0]
    undivided = whole or _place(root / "images")
    return found if found or undivided is None else {None: undivided}


def _place(folder: Path) -> VocPlace | None:
    """The folders of XML files and images within a folder, or this itself where it holds XML files; else None."""
    for name in XML_FOLDERS:
        if files_below(folder / name, {".xml"}):
            images = (folder / each for each in IMAGE_FOLDERS)
            return VocPlace(folder / name, next((each for each in images if each.is_dir()), folder / name))
    beside = any(name.lower().endswith(".xml") for name in files_in(folder))
    return VocPlace(folder, folder) if beside else None


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()
