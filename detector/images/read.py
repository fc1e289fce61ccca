"""Reads an image file into 8-bit RGB, turned the way its annotations see it.

Pillow decodes: unlike OpenCV it notices a file that ends too early.
"""

import io
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from detector.errors import DataError, printable

# Named, because Pillow would hand other formats to outside programs (EPS to Ghostscript).
IMAGE_FORMATS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png",),
    "WEBP": ("webp",),
    "TIFF": ("tif", "tiff"),
    "BMP": ("bmp",),
    "GIF": ("gif",),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "JPEG2000": ("jp2", "j2k", "jpx", "jpf", "j2c", "jpc"),
    "AVIF": ("avif",),
}
"""The extensions of files of each format."""
IMAGE_SUFFIXES = frozenset(f".{extension}" for extensions in IMAGE_FORMATS.values() for extension in extensions)
ORIENTATION_TAG = 0x0112
PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
BITS_TAG, BANDS_TAG, MAXIMUM_TAG, NUMBERS_TAG = 258, 277, 281, 339  # of TIFF
LARGEST_16_BIT = 65535
ROWS = 512  # that are converted at a time
TOO_LARGE = (
    "this image has more than 178 million pixels, against which Pillow guards; cut it into parts, or set"
    " PIL.Image.MAX_IMAGE_PIXELS in Python"
)


class UnreadableImageError(DataError):
    """An image file that is missing, damaged, or not the image the annotation file describes."""


class ImageTooLargeError(DataError):
    """An image of more pixels than are read."""


def read_image(path: Path, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "height width 3"]:
    """The image as contiguous 8-bit RGB; alpha is dropped; of several pages the first is read, which is said once.

    Deeper values keep their high byte. Where none reaches beyond 8 or 12 bits, and the file doesn't declare a range,
    those bits are the range, which is said once. Reading takes up to 7 bytes of memory a pixel, 10 for a turned image.

    size: (width, height) in pixels from the annotation file, which decides whether the EXIF orientation is applied:
    it is whenever the turned image has that size, and is left off where only the stored pixels have it.
    Without a size it is applied, so that the image is as a person sees it.

    Raises UnreadableImageError, one line with the file and the reason, if the file can't be decoded to its end or
    if neither the turned nor the stored image has the size.
    """
    pixels, orientation = decode_image(path)
    turned = turn(pixels, orientation)
    if size is None or _size_of(turned) == size:
        return np.ascontiguousarray(turned)
    if _size_of(pixels) == size:
        return pixels
    stored_width, stored_height = _size_of(pixels)
    exif = f" (EXIF orientation {orientation})" if orientation != 1 else ""
    raise UnreadableImageError(
        f"{path}: the image is {stored_width}x{stored_height}{exif}, the annotation file says {size[0]}x{size[1]}: "
        "correct width and height of this image there"
    )


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels as the file's header says, turned as its EXIF orientation says; raises as `read_image`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in `decode_image`
            with Image.open(path, formats=_known_formats()) as image:
                decode = image.format == "PNG" and _has_late_metadata(path)
                return image.size if _orientation(image, decode) <= 4 else image.size[::-1]
    except Exception as error:  # as in `decode_image`
        raise UnreadableImageError(f"{path}: {_reason(path, error)}") from error


def image_from_bytes(encoded: bytes, max_pixels: int | None = None) -> UInt8[np.ndarray, "height width 3"]:
    """An encoded image, a file's content, as contiguous 8-bit RGB, turned as its EXIF orientation says.

    Raises ImageTooLargeError for one of more than `max_pixels`, before it is decoded, or more than Pillow takes, and DataError
    if it can't be decoded to its end.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in `decode_image`
            with Image.open(io.BytesIO(encoded), formats=_known_formats()) as image:
                if max_pixels is not None and image.width * image.height > max_pixels:
                    raise ImageTooLargeError(
                        f"{image.width} x {image.height} pixels are more than the limit of {max_pixels:,}; send a smaller image"
                    )
                return np.ascontiguousarray(turn(*_pixels_of(image)))
    except ImageTooLargeError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(_known_formats())
        raise DataError(f"{len(encoded)} bytes are no image of a known format ({known})") from error
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"{len(encoded)} bytes: {TOO_LARGE}") from error
    except Exception as error:  # as in `decode_image`
        raise DataError(f"{len(encoded)} bytes can't be read as an image: {' '.join(str(error).split())}") from error


def image_from_pil(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """A Pillow image as contiguous 8-bit RGB, turned as its EXIF orientation says. Raises DataError for one
    whose pixels are floats or whose file, which Pillow reads only now, is broken."""
    try:
        return np.ascontiguousarray(turn(*_pixels_of(image)))
    except Exception as error:  # as in `decode_image`
        raise DataError(f"a PIL image can't be used: {error}") from error


def decode_image(path: Path) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
    """The stored pixels, not turned, as 8-bit RGB, and the EXIF orientation, 1..8; raises as `read_image`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata; what matters is raised
            with Image.open(path, formats=_known_formats()) as image:
                return _pixels_of(image)
    except Exception as error:  # on a broken file Pillow raises nearly anything, from SyntaxError to struct.error
        raise UnreadableImageError(f"{path}: {_reason(path, error)}") from error


def _pixels_of(image: Image.Image) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
    pages = _pages(image)
    # Pillow drops the low bytes of 16-bit colors; the files that use only these, all PNG or TIFF, are read again
    deep_color = _content(image) if image.mode != "I;16" and ";16" in str(getattr(image, "tile", "")) else b""
    orientation = _orientation(image)  # of a PNG file, this loads it
    image.load()
    pixels = _to_rgb(image)
    if deep_color and orientation == 1 and pixels.max() < 16:
        blue_green_red: Any = cv2.imdecode(np.frombuffer(deep_color, np.uint8), cv2.IMREAD_UNCHANGED)
        pixels = np.ascontiguousarray(_eight_bits(blue_green_red[:, :, 2::-1], _declared_bits(image), _name(image)))
    if pages > 1:
        _say_once("pages", f"{_name(image)}: this image has {pages} pages; of such images the first page is read")
    if orientation != 1 and _orientation(image) == 1:  # Pillow turns TIFF itself while loading
        pixels = np.ascontiguousarray(_turn_back(pixels, orientation))
    return pixels, orientation


def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)  # AVIF came with Pillow 11.3


def _orientation(image: Image.Image, decode: bool = True) -> int:
    """EXIF orientation, 1 where there is none or it can't be understood: broken metadata don't spoil an image.

    decode: of a PNG file, decode the pixels for metadata that follow them.
    """
    try:
        value = (image.getexif() if decode else Image.Image.getexif(image)).get(ORIENTATION_TAG, 1)
    except Exception:  # as above
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _has_late_metadata(path: Path) -> bool:
    """Whether a PNG file has metadata behind its pixels, where Pillow finds them only by decoding these."""
    pixels = False
    with path.open("rb") as file:
        file.seek(len(b"\x89PNG\r\n\x1a\n"))
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if pixels and kind in PNG_METADATA:
                return True
            pixels |= kind == b"IDAT"
            file.seek(length + 4, os.SEEK_CUR)  # 4 bytes of checksum
    return False


def _pages(image: Image.Image) -> int:
    if image.format == "MPO":  # JPEG of a phone, whose other pages are previews
        return 1
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # the first page may be whole
        return 1


def _content(image: Image.Image) -> bytes:
    """The file of an image that is not loaded yet."""
    file = getattr(image, "fp")  # noqa: B009 - only images from files have one
    place = file.tell()
    file.seek(0)
    content: bytes = file.read()
    file.seek(place)
    return content


def _name(image: Image.Image) -> str:
    return str(getattr(image, "filename", "")) or "image in memory"


_said: set[str] = set()


def _say_once(kind: str, line: str) -> None:
    """Print a remark on an image to standard error, the first of its kind only."""
    if kind not in _said:
        _said.add(kind)
        print(printable(line), file=sys.stderr)


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown; save it with 8 bits a channel")
    if not image.mode.startswith("I"):
        rgb = np.empty((image.height, image.width, 3), np.uint8)
        for top in range(0, image.height, ROWS):  # at once it would take three times the memory
            rows = image.crop((0, top, image.width, min(top + ROWS, image.height)))
            rgb[top : top + ROWS] = np.asarray(rows.convert("RGB"))
        return rgb
    values = np.asarray(image)
    if values.min() < 0 or values.max() > LARGEST_16_BIT:
        raise ValueError("its 32-bit pixels reach beyond 0..65535; save it with 8 or 16 bits a channel")
    gray = _eight_bits(values, _declared_bits(image), _name(image))
    return np.repeat(gray[:, :, None], 3, axis=2)


def _declared_bits(image: Image.Image) -> int | None:
    """The bits that the values of a deep image use, as its file says."""
    if image.format in ("PPM", "JPEG2000"):  # Pillow has scaled them
        return 16
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(BITS_TAG, (16,))[0]
    if MAXIMUM_TAG in tags:
        return max(8, int(np.max(tags[MAXIMUM_TAG])).bit_length())
    return bits if 8 < bits < 16 else None


def _eight_bits(values: Shaped[np.ndarray, "..."], declared: int | None, name: str) -> UInt8[np.ndarray, "..."]:
    """The high 8 of the bits that values in 0..65535 use."""
    largest = int(values.max())
    bits = declared or next(bits for bits in (8, 12, 16) if largest < 1 << bits)
    if largest and bits < 16 and not declared:
        _say_once("range", f"{name}: its values end at {largest}; such images are read as images of {bits} bits")
    eight_bits: UInt8[np.ndarray, "..."] = np.minimum(values >> (bits - 8), 255).astype(np.uint8)
    return eight_bits


def turn(
    pixels: UInt8[np.ndarray, "height width 3"], orientation: int
) -> UInt8[np.ndarray, "turned_height turned_width 3"]:
    """A view of the stored pixels as the EXIF orientation wants them shown."""
    match orientation:
        case 2:
            return pixels[:, ::-1]  # flipped left to right
        case 3:
            return pixels[::-1, ::-1]  # half a turn
        case 4:
            return pixels[::-1]  # flipped top to bottom
        case 5:
            return pixels.transpose(1, 0, 2)  # flipped at the main diagonal
        case 6:
            return np.rot90(pixels, k=-1)  # a quarter turn clockwise
        case 7:
            return pixels[::-1, ::-1].transpose(1, 0, 2)  # flipped at the other diagonal
        case 8:
            return np.rot90(pixels, k=1)  # a quarter turn counter-clockwise
    return pixels


def _turn_back(
    pixels: UInt8[np.ndarray, "height width 3"], orientation: int
) -> UInt8[np.ndarray, "stored_height stored_width 3"]:
    """The inverse of `turn`: the quarter turns undo each other, every other orientation undoes itself."""
    return turn(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def _size_of(pixels: UInt8[np.ndarray, "height width 3"]) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[0]


def _reason(path: Path, error: Exception) -> str:
    """Why the image can't be read, on one line, without the file's name."""
    if isinstance(error, FileNotFoundError):
        return "this image does not exist"
    if isinstance(error, UnidentifiedImageError):
        if path.stat().st_size == 0:
            return "this image is empty (0 bytes)"
        return _unknown_tiff(path) or f"this is not an image of a known format ({', '.join(_known_formats())})"
    if isinstance(error, Image.DecompressionBombError):
        return TOO_LARGE
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"this image can't be read: {' '.join(text.split()) or type(error).__name__}"


def _unknown_tiff(path: Path) -> str:
    """What a TIFF file holds that Pillow doesn't know; empty for another file."""
    try:
        with path.open("rb") as file:
            tags = ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
        bits = tags.get(BITS_TAG, (1,))[0]
    except Exception:  # no TIFF, or a broken one
        return ""
    kind = " floating-point" if 3 in tags.get(NUMBERS_TAG, ()) else ""
    return (
        f"this TIFF image has {tags.get(BANDS_TAG, 1)} bands of {bits}-bit{kind} values, which Pillow can't decode;"
        " save it as RGB with 8 bits a channel"
    )
