"""Weights by name: those that come with the program (`weights/` in a clone, the same files in an installed package), and those
that `detector weights get` has downloaded."""

from pathlib import Path

from detector.errors import WeightsError
from detector.formats.table import format_of
from detector.utils.fileio import file_sha256
from detector.weights.downloaded import find_downloaded, weights_path
from detector.weights.published.table import TABLE
from detector.weights.widen import NARROWER

PACKAGED = Path(__file__).parent / "shipped_files"
"""Folder of the shipped files: in a clone a link to the folder `weights/`, by which its files come into a built package; a
system without links has a text file there, and then only the clone knows the names."""
FOLDER = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[2] / "weights"
SUMS = "SHA256SUMS"


def find_weights(weights: str | Path) -> Path:
    """The file that is meant: the one at this path, or the shipped or downloaded one of this name, whose checksum is verified.

    Raises WeightsError if there is none, or if that of the name is damaged. Downloads nothing.
    """
    path = Path(weights)
    if path.is_file():
        return path
    if str(weights) in TABLE:
        return find_downloaded(str(weights))
    sums = checksums()
    shipped = FOLDER / f"{weights}.safetensors"
    if f"{weights}.safetensors" not in sums:
        names = ", ".join(shipped_names()) or "none"
        raise WeightsError(
            f"--weights: there is no file {path}; training leaves best.safetensors in its --out folder; the names of"
            f" shipped weights are: {names}; of downloadable ones (detector weights): {', '.join(TABLE)}"
        )
    if not shipped.is_file() or file_sha256(shipped) != sums[shipped.name]:
        raise WeightsError(
            f"{shipped}: missing or damaged, its checksum is not that of {SUMS}; git checkout weights/ brings it back"
            " in a clone, else install the package again"
        )
    return shipped


def own_weights(weights: str) -> Path:
    """The weights file at this path, which may be changed. Raises WeightsError for an exported file, and for shipped and
    downloaded weights, whose checksums are kept."""
    path = find_weights(weights)
    if format_of(path) is not None:
        raise WeightsError(
            f"{weights}: an exported file can't be changed; give the weights it was made from, then export them"
        )
    kept = [*(FOLDER / name for name in checksums()), *map(weights_path, TABLE)]
    if path.resolve() in [each.resolve() for each in kept]:
        raise WeightsError(
            f"{weights}: these weights have a checksum and stay as they are; copy {path}, and give the copy"
        )
    return path


def base_weights(model: str) -> str | None:
    """The name of the shipped weights that a training of the model starts from if none are asked for; None: there are none."""
    names = [f"{each}-base" for each in (model, NARROWER.get(model))]
    return next((name for name in names if name in shipped_names()), None)


def shipped_names() -> list[str]:
    return [name.removesuffix(".safetensors") for name in checksums()]


def checksums() -> dict[str, str]:
    """File name -> SHA-256 of each shipped file, from the file that `sha256sum --check` reads too."""
    if not (FOLDER / SUMS).is_file():
        return {}
    lines = (FOLDER / SUMS).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}
