"""Perceptual hashes: images that look alike have hashes that differ in few of 64 bits, whatever their size and compression.

The hash by discrete cosine transform of C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010:
whether each of the lowest frequencies is above their median.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float64, Int64, UInt8, UInt64

SIDE = 32  # pixels of the gray image that is transformed
LOW = 8  # frequencies each way
BITS = 64
BANDS, BAND_BITS = 4, 16
LARGEST_DISTANCE = 2 * BANDS - 1
"""Bits; with up to so many different ones, one of the bands differs in one bit at most."""


class Fingerprint(NamedTuple):
    """What an image looks like. bits: its hash; thumbnail: gray levels, averaged."""

    bits: np.uint64
    thumbnail: UInt8[np.ndarray, "side side"]


def fingerprint(image: UInt8[np.ndarray, "height width 3"]) -> Fingerprint:
    """The fingerprint of an RGB image as it is shown."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    thumbnail = np.asarray(cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    low = cv2.dct(thumbnail.astype(np.float64))[1 : LOW + 1, 1 : LOW + 1].ravel()
    return Fingerprint(np.packbits(low > np.median(low)).view(np.uint64)[0], thumbnail)


def close_pairs(hashes: UInt64[np.ndarray, " images"], distance: int) -> Int64[np.ndarray, "pairs 2"]:
    """The pairs of hashes that differ in at most `distance` bits, each as two indices, the smaller first.

    distance: 0 to `LARGEST_DISTANCE`. Only hashes that have one of four bands of 16 bits in common, but for one bit, are
    compared: of 100,000 random ones about 10 million pairs instead of 5 billion.
    """
    assert 0 <= distance <= LARGEST_DISTANCE
    distinct, group = np.unique(hashes, return_inverse=True)
    pairs = [np.zeros((0, 2), np.int64)]
    for band in range(BANDS):
        values = (distinct >> np.uint64(band * BAND_BITS)) & np.uint64((1 << BAND_BITS) - 1)
        order = np.argsort(values, kind="stable")
        for flipped in (0, *(1 << bit for bit in range(BAND_BITS))):
            wanted = values ^ np.uint64(flipped)
            start, end = (np.searchsorted(values, wanted, side, sorter=order) for side in ("left", "right"))
            one = np.repeat(np.arange(len(distinct)), end - start)
            offsets = np.arange(len(one)) - np.repeat(np.cumsum(end - start) - (end - start), end - start)
            other = order[np.repeat(start, end - start) + offsets]
            near = (one < other) & (_bits_set(distinct[one] ^ distinct[other]) <= distance)
            pairs.append(np.column_stack((one[near], other[near])))
    return _of_members(np.unique(np.concatenate(pairs), axis=0), group)


def _of_members(
    pairs: Int64[np.ndarray, "pairs 2"], group: Int64[np.ndarray, " images"]
) -> Int64[np.ndarray, "member_pairs 2"]:
    """The pairs of images with equal hashes, and those of images whose hashes are a pair."""
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(group))[:-1]) if len(group) else []
    found = [np.zeros((0, 2), np.int64)]
    for equal in members:
        if len(equal) > 1:
            found.append(np.column_stack([equal[index] for index in np.triu_indices(len(equal), k=1)]))
    for one, other in pairs.tolist():
        found.append(np.sort(np.stack(np.meshgrid(members[one], members[other]), axis=-1).reshape(-1, 2), axis=1))
    together: Int64[np.ndarray, "member_pairs 2"] = np.concatenate(found)
    return together[np.lexsort((together[:, 1], together[:, 0]))]


def _bits_set(values: UInt64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    return np.asarray(np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1, dtype=np.int64))


def likeness(one: Fingerprint, other: Fingerprint, side: int = SIDE) -> float:
    """Correlation of two thumbnails, reduced to `side` pixels, which forgives small shifts: 1 for images that differ in
    brightness and contrast only, 0 where one is plain."""
    small = (cv2.resize(each.thumbnail, (side, side), interpolation=cv2.INTER_AREA) for each in (one, other))
    a, b = (each.astype(np.float64) - each.mean() for each in small)
    energy: Float64[np.ndarray, ""] = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / energy) if energy > 0 else 0.0
