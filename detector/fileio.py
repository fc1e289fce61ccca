"""Files that are either the old one or the complete new one, whatever happens in between."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detector.errors import DetectorError


def atomic_write(path: Path, write: Callable[[Path], Any]) -> None:
    """Have `write` fill a temporary file in the same folder, then put it in the place of `path`.

    Raises DetectorError naming the file where the disk is full or the folder can't be written; nothing is left behind.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error.strerror or str(error)) from error
    except RuntimeError as error:  # how torch.save and safetensors report a full disk
        if "write" not in str(error) and "space" not in str(error):
            raise
        raise _cannot_write(path, str(error).splitlines()[0]) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _cannot_write(path: Path, reason: str) -> DetectorError:
    return DetectorError(f"{path}: can't be written ({reason}); free some space or choose another folder with --out")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically."""
    atomic_write(path, lambda temporary: temporary.write_text(json.dumps(value, indent=1), encoding="utf-8"))
