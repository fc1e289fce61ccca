"""Images that are no local files: on object stores (s3://, gs://, …) and in tar files, through fsspec, which PyTorch brings."""

import glob
from collections.abc import Iterator
from pathlib import PurePosixPath

from fsspec.core import url_to_fs
from jaxtyping import UInt8
from numpy import ndarray

from detector.errors import DataError
from detector.images.read import IMAGE_SUFFIXES, UnreadableImageError, image_from_bytes
from detector.utils.http import LARGEST, without_secrets
from detector.utils.stores import is_remote, store_errors


def find_remote(name: str) -> list[str]:
    """The names of the images behind an fsspec URL, sorted: of one image, of a folder with its subfolders, of a glob (`**` stands
    for any depth), or of a tar file, which may be local. The tar files that a folder or glob holds are opened.

    Raises DataError if there is none, or if it can't be listed.
    """
    with store_errors(name):
        system, path = url_to_fs(name)
        if glob.has_magic(path):
            found = system.glob(path)
        elif system.exists(path):
            found = [path] if system.isfile(path) else system.find(path)
        else:
            raise FileNotFoundError
        images: list[str] = []
        for each in sorted(map(str, found)):
            if each.lower().endswith(".tar"):
                images += _members(system.unstrip_protocol(each) if is_remote(name) else each)
            elif PurePosixPath(each).suffix.lower() in IMAGE_SUFFIXES:
                images.append(system.unstrip_protocol(each))
    if not images:
        raise DataError(
            f"{without_secrets(name)}: holds no image; name an image, a folder, a glob or a tar file of images"
        )
    return images


def read_remote(name: str) -> UInt8[ndarray, "height width 3"]:
    """The image with a name that `find_remote` gives, as contiguous 8-bit RGB. Raises UnreadableImageError if it can't be had."""
    with store_errors(name, UnreadableImageError):
        system, path = url_to_fs(name)
        with system.open(path, "rb") as file:
            content: bytes = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise UnreadableImageError(
            f"{without_secrets(name)}: more than {LARGEST >> 20} MiB, which no image should have"
        )
    try:
        return image_from_bytes(content)
    except DataError as error:
        raise UnreadableImageError(f"{without_secrets(name)}: {error}") from error


def _members(tar: str) -> Iterator[str]:
    """The images in a tar file, sorted."""
    system, _ = url_to_fs(f"tar://::{tar}")
    for member in sorted(map(str, system.find(""))):
        if PurePosixPath(member).suffix.lower() in IMAGE_SUFFIXES:
            yield f"tar://{member}::{tar}"
