"""The images of a dataset that are elsewhere: on a web server, in an object store, in tar files. Only the annotations are here."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

import fsspec.utils
import numpy as np
from fsspec.core import url_to_fs
from jaxtyping import Int64
from torch import Tensor

from detector.data.annotation_file import AnnotationFile
from detector.data.image_search import is_absolute, leads_out
from detector.data.shared import share
from detector.errors import DataError, without_secrets
from detector.images.remote import WEB, content_of, part_of, without_login
from detector.images.shards import Member, members
from detector.utils.file_cache import FileCache
from detector.utils.stores import is_remote, store_errors

SHARDS_AT_ONCE = 16
UNKNOWN = -1
"""In place of a shard's number for images that are files of their own, and of a length that nobody said."""
NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}", re.ASCII)
MOST_SHARDS = 100_000
MASK = "***"
"""What `without_secrets` puts in the place of secrets."""


@dataclass(frozen=True)
class RemoteFolder:
    """Where the images of a split are, as the user says it.

    url: of a folder, or of tar files, {000..099} or a glob standing for several; cache: for copies.
    """

    url: str
    cache: FileCache

    def __str__(self) -> str:
        return without_secrets(self.url)


@dataclass(frozen=True)
class RemoteImage:
    """An image at a URL, or, in the tar file there, the `length` bytes from `start` on: what `read_image` takes."""

    url: str
    start: int
    length: int
    cache: FileCache = field(compare=False)
    in_tar: str = ""
    """The name in the tar file."""

    def __str__(self) -> str:
        place = without_secrets(self.url)
        return f"{place}: {self.in_tar}" if self.in_tar else place

    def read_bytes(self) -> bytes:
        return self.cache.read(self._key, self._fetch)

    def discard(self) -> None:
        self.cache.discard(self._key)

    def _fetch(self) -> bytes:
        return part_of(self.url, self.start, self.length) if self.in_tar else content_of(self.url)

    @property
    def _key(self) -> str:
        """The URL without what logs in, which changes from day to day, and the length, which changes with the image."""
        return f"{without_login(self.url)} {self.start} {self.length}"


@dataclass(frozen=True, eq=False)
class RemoteImages:
    """Where each of some images is. places: number of the shard, first byte and length in bytes; `UNKNOWN` for what has none."""

    folder: RemoteFolder
    shards: tuple[str, ...]
    places: Int64[Tensor, "images 3"]

    def __str__(self) -> str:
        return str(self.folder)

    def of(self, images: Int64[np.ndarray, " chosen"]) -> "RemoteImages":
        """Some of the images, by their places."""
        return RemoteImages(self.folder, self.shards, share(self.places.numpy()[images]))

    def image(self, index: int, name: str) -> RemoteImage:
        shard, start, length = self.places[index].tolist()
        if shard == UNKNOWN:
            return RemoteImage(join(self.folder.url, posixpath.normpath(name)), start, length, self.folder.cache)
        return RemoteImage(self.shards[shard], start, length, self.folder.cache, name)


def is_elsewhere(images: str) -> bool:
    """Whether what the user names as the images of a split is no folder of this machine."""
    return WEB.match(images) is not None or is_remote(images) or is_tar(images)


def is_tar(url: str) -> bool:
    """Whether tar files are meant; parameters may follow the path of a web address."""
    return (urlsplit(url).path if WEB.match(url) else url).lower().endswith(".tar")


def locate(file: AnnotationFile, names: Sequence[str], folder: RemoteFolder) -> RemoteImages:
    """Where the image of each name is. Names are taken as they stand.

    Folders of web servers can't be listed: whether an image is there shows when it is read. Raises DataError, a line with the
    remedy, if an image is not there or there twice.
    """
    for index, name in enumerate(names):
        if is_absolute(name):
            raise leads_out(file, index, name)
    images, unclear = look_up(names, folder)
    for index, found in unclear.items():
        if found:
            raise DataError(
                f"{file.path}: images[{index}].file_name is {names[index]!r}: this may be {found[0]} or {found[1]}; give each image"
                " a name of its own"
            )
    if unclear:
        hint = "" if images.shards else "; tar files are named as such: …/*.tar"
        raise DataError(
            f"{len(unclear)} of {len(names)} images named in {file.path} are not in {folder}, the first:"
            f" {names[next(iter(unclear))]!r}; correct file_name there, or name another place with --paths.train_images and so"
            f" on{hint}"
        )
    return images


def look_up(names: Sequence[str], folder: RemoteFolder) -> tuple[RemoteImages, dict[int, list[str]]]:
    """Where the image of each name is, and, for each that is not there or there more than once, by its place, what it may be.

    Raises DataError where nothing can be read or listed.
    """
    if MASK in folder.url:
        raise DataError(
            f"{folder}: what stood for {MASK} is kept nowhere; give the URL again with --paths.train_images and so on"
        )
    names = [posixpath.normpath(name) for name in names]
    places = np.full((len(names), 3), UNKNOWN, np.int64)
    shards: tuple[str, ...] = ()
    unclear: dict[int, list[str]] = {}
    if is_tar(folder.url):
        shards = shard_urls(folder.url)
        for index, found in enumerate(_in_shards(names, shards, folder.cache)):
            if len(found) == 1:
                number, member = found[0]
                places[index] = number, member.start, member.length
            else:
                unclear[index] = [f"{member.name!r} in {without_secrets(shards[number])}" for number, member in found]
    elif not WEB.match(folder.url):
        lengths = _listed(folder)
        places[:, 2] = [lengths.get(name, UNKNOWN) for name in names]
        unclear = {index: [] for index, name in enumerate(names) if name not in lengths}
    return RemoteImages(folder, shards, share(places)), unclear


def _listed(folder: RemoteFolder) -> dict[str, int]:
    """The lengths in bytes of the files in a folder of a store, by their names relative to it."""
    with store_errors(folder.url):
        system, root = url_to_fs(folder.url)
        found = system.find(root, detail=True)
    root = root.rstrip("/")
    # with :: in it, a URL would lead elsewhere
    return {path[len(root) + 1 :]: int(entry["size"]) for path, entry in found.items() if "::" not in path}


def _in_shards(names: Sequence[str], shards: Sequence[str], cache: FileCache) -> Iterator[list[tuple[int, Member]]]:
    """For each name what is called so in the tar files, else what ends so: annotations say `a.jpg` where tar files have
    `train/a.jpg`. With the number of the shard."""
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        contents = list(pool.map(lambda shard: members(shard, cache), shards))
    by_base: dict[str, list[tuple[int, Member]]] = defaultdict(list)
    for number, content in enumerate(contents):
        for member in content:
            by_base[posixpath.basename(member.name)].append((number, member))
    for name in names:
        ending = [each for each in by_base[posixpath.basename(name)] if f"/{each[1].name}".endswith(f"/{name}")]
        yield [each for each in ending if posixpath.normpath(each[1].name) == name] or ending


def shard_urls(url: str) -> tuple[str, ...]:
    """The tar files that a URL or path stands for: {000..099} are numbers, as WebDataset writes them; then globs of stores and of
    this machine are looked up. Raises DataError if there is none."""
    urls: list[str] = []
    for each in _numbered(url):
        if WEB.match(each) or not any(character in each for character in "*?["):
            urls.append(each)
            continue
        with store_errors(each):
            system, pattern = url_to_fs(each)
            urls += [system.unstrip_protocol(path) for path in sorted(map(str, system.glob(pattern)))]
    if not urls:
        raise DataError(f"{url}: there are no such tar files")
    return tuple(urls)


def _numbered(url: str) -> Iterator[str]:
    match = NUMBERS.search(url)
    if match is None:
        yield url
        return
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MOST_SHARDS:
        raise DataError(f"{url}: {match[0]} stands for no numbers, or for more than {MOST_SHARDS:,}")
    for number in range(first, last + 1):
        yield from _numbered(f"{url[: match.start()]}{number:0{len(match[1])}}{url[match.end() :]}")


def join(url: str, name: str) -> str:
    """The URL of a file in a folder. On web servers the name is quoted, and parameters of the folder's URL stay behind it."""
    if not WEB.match(url):
        return f"{url.rstrip('/')}/{name}"
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}").geturl()


def is_local(url: str) -> bool:
    """Whether images at a URL of fsspec, or tar files, are on this machine, so that copies would be for nothing."""
    return fsspec.utils.get_protocol(url) in ("file", "local")
