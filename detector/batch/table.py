"""The rows that a part becomes, in Parquet: the only module that imports pyarrow."""

from collections.abc import Callable, Sequence
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import torch

from detector.errors import DataError, missing_package
from detector.structures import Categories, Detections

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise missing_package("detector batch", error, "batch") from error

Table = Any
"""A `pyarrow.Table` of `SCHEMA`; pyarrow has no types."""
SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("labels", pa.list_(pa.int32())),
        pa.field("names", pa.list_(pa.string())),
        pa.field("category_ids", pa.list_(pa.int64())),
        pa.field("error", pa.string()),
    ]
)
"""docs/scale.md says what they mean; `error` is null where the image was read, `image` and `image_id` are never null."""


def found_row(image: str, image_id: int, size: tuple[int, int], found: Detections) -> dict[str, Any]:
    """The row of an image; size: (width, height) in pixels."""
    return {
        "image": image,
        "image_id": image_id,
        "width": size[0],
        "height": size[1],
        "boxes": found.boxes.tolist(),
        "scores": found.scores.tolist(),
        "labels": found.labels.tolist(),
        "names": found.names,
        "category_ids": [found.categories.ids[label] for label in found.labels.tolist()],
    }


def error_row(image: str, image_id: int, error: str) -> dict[str, Any]:
    """The row of an image that could not be read; what is not in it is null."""
    return {"image": image, "image_id": image_id, "error": error}


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def joined(tables: Sequence[Table]) -> Table:
    """The tables as one, in their order."""
    return pa.concat_tables(tables).combine_chunks()


def write_table(table: Table, path: Path) -> None:
    pq.write_table(table, path)


def read_table(file: BufferedIOBase, name: str) -> Table:
    """The rows of a part. Raises DataError, which names it so, for a file that is none."""
    table = _parquet(file, name, pq.read_table)
    if not table.schema.equals(SCHEMA):
        raise DataError(f"{name}: no results of detector batch; remove this file from the folder")
    return table


def detections_of(row: dict[str, Any]) -> Detections:
    """What was found in a row's image; each detection has a label and a category of its own."""
    count = len(row["scores"])
    return Detections(
        torch.tensor(row["boxes"], dtype=torch.float32).reshape(count, 4),
        torch.tensor(row["scores"], dtype=torch.float32),
        torch.arange(count),
        Categories(tuple(row["category_ids"]), tuple(row["names"])),
    )


def read_paths(path: Path) -> list[str]:
    """The column `path` of a Parquet file. Raises DataError if there is none, or if something in it is no text."""
    with path.open("rb") as file:  # by its name, pyarrow would read a folder of them
        kinds = {field.name: field.type for field in _parquet(file, str(path), pq.read_schema)}
        kind = kinds.get("path", pa.null())
        texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        table = _parquet(file, str(path), partial(pq.read_table, columns=["path"])) if texts else None
    if table is None:
        raise DataError(f"{path}: has no column path of strings; name the column with the images' paths so")
    if table.column(0).null_count:
        raise DataError(
            f"{path}: {table.column(0).null_count} values of the column path are null; leave these rows out"
        )
    paths: list[str] = table.column(0).to_pylist()
    return paths


def _parquet(file: BufferedIOBase, name: str, read: Callable[[BufferedIOBase], Any]) -> Any:
    try:
        return read(file)
    except (pa.ArrowException, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name}: can't be read as Parquet ({reason})") from error
