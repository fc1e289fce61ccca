"""`detector batch`: the plan, the engine, the summary; `detector join_batch`: one COCO file of all parts."""

from collections.abc import Callable, Sequence
from pathlib import Path

from detector.batch.folder import Folder, folder_of
from detector.batch.local import run_local
from detector.batch.plan import PARTS, SETTINGS, Part, claim, cut, list_images, part_name, read_settings, settings_of
from detector.batch.progress import BatchProgress
from detector.batch.table import Table, detections_of, read_table
from detector.batch.work import Task
from detector.config import BatchConfig, JoinBatchConfig
from detector.errors import DataError, DetectorError, WriteError
from detector.inference.sinks import image_entries, json_writer


def batch(config: BatchConfig) -> None:
    """Detect in all images of `config.sources` of which `config.out` has no rows yet.

    Raises DetectorError kinds: sources or weights that can't be used, a folder of other results, no room; and where a stop
    signal came first. What was done then stays, and the same command goes on.
    """
    folder = folder_of(config.out)
    folder.require_usable()
    run = _engine(config)
    images = list_images(config.sources)
    settings = settings_of(config, images)
    claim(folder, settings)
    folder.make(PARTS)
    task = Task(config, settings)
    share, shares = config.share
    mine = cut(images, config.part_size)[share - 1 :: shares]
    done = folder.names(PARTS)
    if config.retry_errors:
        done -= _forget_errors(folder, [name for part in mine if (name := part_name(settings, part)) in done])
    left = [part for part in mine if part_name(settings, part) not in done]
    print(f"{len(images)} images; of {len(mine)} parts to do here {len(mine) - len(left)} are done", flush=True)
    if not left:
        return
    try:
        with BatchProgress(sum(len(part.paths) for part in left)) as progress:
            finished = run(task, left, progress)
    finally:
        folder.clean(PARTS)  # of workers that were killed
    done = folder.names(PARTS)
    missing = sum(part_name(settings, part) not in done for part in mine)
    if not finished:
        raise DetectorError(
            f"stopped; {missing} of {len(mine)} parts are left, and the same command goes on from there"
        )
    if missing:
        raise WriteError(
            f"--out: workers have written {missing} parts that are not in {folder}/{PARTS} here; choose a folder that all machines"
            " of the cluster share"
        )
    errors = f"; {progress.errors} of them have an error in their row" if progress.errors else ""
    print(
        f"written: {len(left)} parts in {folder}/{PARTS};"
        f" {progress.images} images, {progress.images_per_second:.1f} images/s{errors}"
    )
    if progress.errors == progress.images:
        raise DataError(
            "no image could be read; the column error of the parts says why. When that is mended: the same command with"
            " --retry_errors"
        )


def _forget_errors(folder: Folder, names: Sequence[str]) -> set[str]:
    """Remove those of the parts that hold an error; their names."""
    forgotten = set()
    for name in names:
        errors = _rows(folder, name).column("error")
        if errors.null_count < len(errors):
            folder.remove(f"{PARTS}/{name}")
            forgotten.add(name)
    return forgotten


def _engine(config: BatchConfig) -> Callable[[Task, Sequence[Part], BatchProgress], bool]:
    if config.engine == "local":
        return run_local
    from detector.batch.on_ray import run_ray  # an optional package

    return run_ray


def join_batch(config: JoinBatchConfig) -> None:
    """Write all detections of a batch into detections.json in its folder, as `infer` does, in the order of the image ids.

    Raises DataError if parts are missing or belong to something else.
    """
    folder = folder_of(config.folder)
    settings = read_settings(folder)
    first_ids: dict[int, str] = {}
    images = 0
    for name in folder.names(PARTS):
        if not name.endswith(".parquet"):
            continue
        table = _rows(folder, name)
        ids = table.column("image_id").to_pylist() or [0]
        part = Part(ids[0], tuple(table.column("image").to_pylist()))
        if part_name(settings, part) != name or ids != list(range(ids[0], ids[0] + len(ids))):
            raise DataError(
                f"{folder}/{PARTS}/{name}: its rows are not what {folder}/{SETTINGS} describes; remove this file"
            )
        first_ids[part.first_id] = name
        images += len(ids)
    if images != settings["images"]:
        raise DataError(
            f"{folder}: holds rows of {images} of {settings['images']} images; run detector batch to its end first"
        )
    detections = errors = 0

    def write_all(target: Path) -> None:
        nonlocal detections, errors
        with json_writer(target) as write:
            for _, name in sorted(first_ids.items()):
                for row in _rows(folder, name).to_pylist():
                    if row["error"] is not None:
                        errors += 1
                        continue
                    found = detections_of(row)
                    detections += len(found)
                    write(image_entries({"file_name": row["image"]}, found, row["image_id"], found.categories))

    folder.write("detections.json", write_all)
    failed = f", {errors} without for an error in their row" if errors else ""
    print(f"written: {folder}/detections.json: {detections} detections in {images} images{failed}")


def _rows(folder: Folder, name: str) -> Table:
    """The rows of the part in a file."""
    with folder.open(f"{PARTS}/{name}") as file:
        return read_table(file, f"{folder}/{PARTS}/{name}")
