"""`detector batch`: the plan, the engine, the summary; `detector join_batch`: one COCO file of all parts."""

from collections.abc import Callable, Sequence
from pathlib import Path

from detector.batch.local import run_local
from detector.batch.plan import PARTS, SETTINGS, Part, claim, cut, list_images, part_path, read_settings, settings_of
from detector.batch.progress import BatchProgress
from detector.batch.table import detections_of, read_table
from detector.batch.work import Task
from detector.config import BatchConfig, JoinBatchConfig
from detector.errors import DataError, DetectorError, WriteError
from detector.inference.sinks import image_entries, json_writer
from detector.utils.fileio import remove_unfinished, require_writable, writing


def batch(config: BatchConfig) -> None:
    """Detect in all images of `config.sources` of which `config.out` has no rows yet.

    Raises DetectorError kinds: sources or weights that can't be used, a folder of other results, no room; and where a stop
    signal came first. What was done then stays, and the same command goes on.
    """
    out = Path(config.out)
    require_writable(out)
    run = _engine(config)
    images = list_images(config.sources)
    settings = settings_of(config, images)
    claim(out, settings)
    with writing(out / PARTS):
        (out / PARTS).mkdir(exist_ok=True)
    require_writable(out / PARTS)
    task = Task(config, settings)
    share, shares = config.share
    mine = cut(images, config.part_size)[share - 1 :: shares]
    left = [part for part in mine if not task.path(part).exists()]
    print(f"{len(images)} images; of {len(mine)} parts to do here {len(mine) - len(left)} are done", flush=True)
    if not left:
        return
    try:
        with BatchProgress(sum(len(part.paths) for part in left)) as progress:
            finished = run(task, left, progress)
    finally:
        remove_unfinished(out / PARTS)  # of workers that were killed
    missing = sum(not task.path(part).exists() for part in mine)
    if not finished:
        raise DetectorError(
            f"stopped; {missing} of {len(mine)} parts are left, and the same command goes on from there"
        )
    if missing:
        raise WriteError(
            f"--out: workers have written {missing} parts that are not in {out / PARTS} here; choose a folder that all machines"
            " of the cluster share"
        )
    errors = f"; {progress.errors} of them have an error in their row" if progress.errors else ""
    print(
        f"written: {len(left)} parts in {out / PARTS}; {progress.images} images, {progress.images_per_second:.1f} images/s{errors}"
    )


def _engine(config: BatchConfig) -> Callable[[Task, Sequence[Part], BatchProgress], bool]:
    if config.engine == "local":
        return run_local
    from detector.batch.on_ray import run_ray  # an optional package

    return run_ray


def join_batch(config: JoinBatchConfig) -> None:
    """Write all detections of a batch into detections.json in its folder, as `infer` does, in the order of the image ids.

    Raises DataError if parts are missing or belong to something else.
    """
    folder = Path(config.folder)
    settings = read_settings(folder)
    first_ids: dict[int, Path] = {}
    images = 0
    for path in (folder / PARTS).glob("*.parquet"):
        table = read_table(path)
        ids = table.column("image_id").to_pylist() or [0]
        part = Part(ids[0], tuple(table.column("image").to_pylist()))
        if part_path(folder, settings, part) != path or ids != list(range(ids[0], ids[0] + len(ids))):
            raise DataError(f"{path}: its rows are not what {folder / SETTINGS} describes; remove this file")
        first_ids[part.first_id] = path
        images += len(ids)
    if images != settings["images"]:
        raise DataError(
            f"{folder}: holds rows of {images} of {settings['images']} images; run detector batch to its end first"
        )
    detections = errors = 0
    target = folder / "detections.json"
    with json_writer(target) as write:
        for _, path in sorted(first_ids.items()):
            for row in read_table(path).to_pylist():
                if row["error"] is not None:
                    errors += 1
                    continue
                found = detections_of(row)
                detections += len(found)
                write(image_entries({"file_name": row["image"]}, found, row["image_id"], found.categories))
    failed = f", {errors} without for an error in their row" if errors else ""
    print(f"written: {target}: {detections} detections in {images} images{failed}")
