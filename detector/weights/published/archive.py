"""The files that torch.save writes: a zip archive of one pickle and the storages of its tensors.

Read with bounds: entries must be stored uncompressed, as torch.save does, and be together no longer than the file, so no
archive unpacks to more than it is. Nothing is extracted to the disk; an entry's name is compared with, never followed.
"""

import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.errors import WeightsError
from detector.weights.published.unpickle import Name, read_pickle, shown

SIGNATURE = b"PK\x03\x04"
ZIP_FAILURES = (zipfile.BadZipFile, struct.error, EOFError, OSError, ValueError, OverflowError, RuntimeError)
"""What zipfile raises for archives that are damaged in one way or another."""
AGAIN = "get the file again from its publisher"

DTYPES = {
    Name("torch", "FloatStorage"): torch.float32,
    Name("torch", "HalfStorage"): torch.float16,
    Name("torch", "BFloat16Storage"): torch.bfloat16,
    Name("torch", "DoubleStorage"): torch.float64,
    Name("torch", "LongStorage"): torch.int64,
    Name("torch", "IntStorage"): torch.int32,
    Name("torch", "ShortStorage"): torch.int16,
    Name("torch", "CharStorage"): torch.int8,
    Name("torch", "ByteStorage"): torch.uint8,
    Name("torch", "BoolStorage"): torch.bool,
}


def read_archive(path: Path) -> Any:
    """The value that torch.save was given, as `read_pickle` gives it: unknown classes as inert records.

    Raises WeightsError for anything else; the text lacks the file's name.
    """
    try:
        archive = zipfile.ZipFile(path)
    except ZIP_FAILURES as error:
        raise WeightsError(f"the zip archive is truncated or damaged ({shown(str(error))}); {AGAIN}") from error
    with archive:
        entries = _Entries(archive, path.stat().st_size)
        return read_pickle(entries.read(entries.pickle), entries.storage)


class _Entries:
    """The entries of an archive that has passed the checks; `pickle`: the name of the one with the pickle."""

    def __init__(self, archive: zipfile.ZipFile, file_size: int) -> None:
        self._archive = archive
        self._infos = {info.filename: info for info in archive.infolist()}
        self._storages: dict[str, Tensor] = {}
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise WeightsError(
                    f"its entry {shown(info.filename)} is compressed, which torch.save never does; {AGAIN}"
                )
        if sum(info.file_size for info in archive.infolist()) > file_size:
            raise WeightsError(f"its entries claim to be longer than the file; {AGAIN}")
        pickles = [name for name in self._infos if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsError(
                f"a zip archive, but none that torch.save wrote (it has {len(pickles)} data.pkl); give the checkpoint itself"
            )
        self.pickle = pickles[0]
        self._folder = self.pickle.removesuffix("data.pkl")
        if f"{self._folder}constants.pkl" in self._infos:
            raise WeightsError(
                "a TorchScript file, whose network is code; give the checkpoint that it was exported from"
            )
        if self._folder + "byteorder" in self._infos and self.read(self._folder + "byteorder") != b"little":
            raise WeightsError("written on a big-endian machine; save it again on a usual one")

    def read(self, name: str) -> bytes:
        try:
            return self._archive.read(self._infos[name])
        except ZIP_FAILURES as error:
            raise WeightsError(f"its entry {shown(name)} is damaged ({shown(str(error))}); {AGAIN}") from error

    def storage(self, named: Any) -> Tensor:
        """The flat tensor that the pickle names as ("storage", type, key, device, number of elements)."""
        match named:
            case ("storage", Name() as kind, str(key), _, int(elements)):
                pass
            case _:
                raise WeightsError(f"its pickle names a storage in a way that torch.save does not; {AGAIN}")
        if kind not in DTYPES:
            raise WeightsError(
                f"it holds tensors of {shown(str(kind))}, which no published detector does; convert them first"
            )
        name = f"{self._folder}data/{key}"
        if name not in self._infos or self._infos[name].file_size != elements * DTYPES[kind].itemsize:
            raise WeightsError(f"its storage {shown(key)} is missing or has another length than stated; {AGAIN}")
        if name not in self._storages:
            content = bytearray(self.read(name))
            dtype = DTYPES[kind]
            self._storages[name] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        tensor = self._storages[name]
        if tensor.dtype != DTYPES[kind]:
            raise WeightsError(f"its storage {shown(key)} has two types; {AGAIN}")
        return tensor
