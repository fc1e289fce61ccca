"""`detector weights get`: the one command that downloads, and only what its user names."""

from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from detector.errors import ConfigError, DetectorError, WeightsError, WriteError, printable, without_secrets
from detector.utils.file_cache import HOME
from detector.utils.fileio import file_sha256, folder_lock, require_writable, staging_dir, write_json
from detector.utils.http import download, forget
from detector.utils.terminal import Terminal
from detector.weights.downloaded import is_whole, read_record, record_path, weights_path
from detector.weights.published.coco_categories import COCO
from detector.weights.published.convert import convert
from detector.weights.published.read import Published, read_published
from detector.weights.published.table import TABLE, PublishedWeights

LARGEST = 512 << 20
"""Bytes of a checkpoint; the largest in the table has less than half of it."""


def get_weights(name: str, source: str | None = None) -> None:
    """Bring published weights into the cache folder, from their publisher or from `source`, a URL or a file.

    A download that was interrupted goes on. Raises DetectorError kinds; then there are no weights, or those from before.
    """
    if name not in TABLE:
        raise ConfigError(
            f"there are no published weights {name!r}; choose one of {', '.join(TABLE)} (detector weights lists all names)"
        )
    if is_whole(name):
        print(f"{name} is here already: {weights_path(name)}")
        print(f"SHA-256 of the checkpoint it was made from: {read_record(name).get('sha256')}")
        return
    try:
        require_writable(weights_path(name).parent)
        with folder_lock(weights_path(name).parent, "download"):
            _get(name, source or TABLE[name].url)
    except WriteError as error:
        raise WriteError(str(error).replace("--out", HOME)) from error


def _get(name: str, source: str) -> None:
    known = TABLE[name]
    print(f"{name}: {known.model}, {len(COCO)} classes, by {known.publisher}, license: {known.license}")
    print(printable(f"from {without_secrets(source)}"))
    partial = weights_path(name).with_suffix(".partial")
    if source.lower().startswith(("http://", "https://")):
        _download(source, partial)
        try:
            _install(name, partial, without_secrets(source))
        except WeightsError as error:
            forget(partial)  # it would be the same again
            raise WeightsError(str(error).replace(str(partial), without_secrets(source))) from error
    elif Path(source).is_file():
        _install(name, Path(source), source)
    else:
        raise WeightsError(f"--source: there is no file {source}; name a file, or a URL (http, https)")
    forget(partial)


def _download(url: str, path: Path) -> None:
    """`download` with a progress bar."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Terminal()) as bar:
        task = bar.add_task("", total=None)
        try:
            download(url, path, LARGEST, lambda done, size: bar.update(task, completed=done, total=size))
        except KeyboardInterrupt:
            raise DetectorError("interrupted; what has come is kept, and the same command goes on from there") from None


def _install(name: str, checkpoint: Path, source: str) -> None:
    """Import a checkpoint that is here. Raises WeightsError if it is not the one that the name stands for."""
    digest = file_sha256(checkpoint)
    _require_sha256(name, digest, source)
    known, published = TABLE[name], read_published(checkpoint)
    _require_known(published, known, checkpoint)
    path, record = weights_path(name), record_path(name)
    with staging_dir(path) as folder:
        info = convert(published, COCO, published.license or known.license, folder / path.name, source)
        notes = {"source": source, "sha256": digest, "license": info.license}
        write_json(folder / record.name, {**notes, "weights_sha256": file_sha256(folder / path.name)})
    print(f"written: {path}")
    if known.sha256 is None:
        print(
            f"no published SHA-256 is known to compare with; a later download must have this one, kept in {record.name}"
        )
    print(f"it works by its name now: --weights {name}")


def _require_sha256(name: str, digest: str, source: str) -> None:
    """Print the checksum of a checkpoint. Raises WeightsError if it is not the known one, or that of an earlier time."""
    print(f"SHA-256: {digest}")
    published, before = TABLE[name].sha256, read_record(name).get("sha256")
    if published not in (None, digest):
        raise WeightsError(
            f"{source}: its SHA-256 is {digest}, not the published {published}; name another source with --source"
        )
    if published is None and before not in (None, digest):
        raise WeightsError(
            f"{source}: its SHA-256 is {digest}, not {before}, which {name} had before; remove"
            f" {weights_path(name).parent} if you trust the new file"
        )


def _require_known(published: Published, known: PublishedWeights, checkpoint: Path) -> None:
    """Raise WeightsError for another network, other classes, or a file of another publisher, with other terms."""
    if (published.model, published.num_classes) != (known.model, len(COCO)):
        raise WeightsError(
            f"{checkpoint}: holds {published.model} with {published.num_classes} classes, not {known.model} with"
            f" {len(COCO)}; name another source with --source"
        )
    if not published.mit:
        raise WeightsError(
            f"{checkpoint}: its tensors are not named as by {known.publisher}; if its license suits you, convert it with"
            " detector import_weights"
        )
