"""What the files are called that `infer` writes, so that none meets another or an original."""

import os
import posixpath
from collections.abc import Container, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from detector.inference.sources import Source


def output_names(sources: Sequence[Source]) -> list[Path]:
    """Where the annotated images and videos go below the output folder: as files lie below the folder they share.

    JPEG, PNG and MP4 keep their format, other images become PNG and other videos MP4, with .png or .mp4 after their
    old suffix. What has no folder is named after the end of its URL, or camera_0.
    """
    files = [Path(source.name).resolve() for source in sources if _is_file(source)]
    shared = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
    names: dict[Path, None] = {}
    for source in sources:
        name = Path(source.name).resolve().relative_to(shared) if _is_file(source) else _place_less(source)
        kept, other = ((".mp4",), ".mp4") if source.kind == "video" else ((".jpg", ".jpeg", ".png"), ".png")
        if name.suffix.lower() not in kept:
            name = name.with_name(f"{name.name}{other}")
        names[_free(name, names)] = None  # b.webp becomes b.webp.png, which there may be already
    return list(names)


def _is_file(source: Source) -> bool:
    return not source.url and source.camera is None


def _place_less(source: Source) -> Path:
    if not source.url:
        return Path(source.name.replace(":", "_"))
    address = urlsplit(source.name)
    end = posixpath.basename(unquote(address.path).rstrip("/")) or address.hostname or "url"
    return Path("".join(character if character.isprintable() and character != "\\" else "_" for character in end))


def attention_plot_names(names: Sequence[Path]) -> list[Path]:
    """Where the attention plots go: beside the annotated images of these names, as photo_attention.jpg."""
    return _beside(names, [name.with_name(f"{name.stem}_attention{name.suffix}") for name in names])


def mot_names(names: Sequence[Path]) -> list[Path]:
    """Where the tracks go: beside the annotated videos of these names, as film.txt."""
    return _beside(names, [name.with_suffix(".txt") for name in names])


def _beside(names: Sequence[Path], others: Sequence[Path]) -> list[Path]:
    """The other names, changed where they are taken."""
    taken = dict.fromkeys(names)
    for other in others:
        taken[_free(other, taken)] = None
    return list(taken)[len(names) :]


def _free(name: Path, taken: Container[Path]) -> Path:
    """The name, with an underscore for each time that it is taken."""
    while name in taken:
        name = name.with_name(f"{name.stem}_{name.suffix}")
    return name
