"""Rotation, shear and perspective: a homography that follows an image's placement, so that it is still warped only once."""

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8

from detector.config import AugmentConfig
from detector.data.outlines import Outlines, project
from detector.images.input_size import InputSize

Homography = Float64[np.ndarray, "3 3"]
"""Of homogeneous coordinates x, y, 1 in pixels, measured at pixel corners, not centers."""


def random_homography(input_size: InputSize, config: AugmentConfig, rng: np.random.Generator) -> Homography | None:
    """Of the network input, about its center, drawn as `config` says; None, and nothing drawn, if it says nothing."""
    if not config.turns:
        return None
    angle, along_x, along_y = np.radians([rng.uniform(-each, each) for each in (config.rotate, *[config.shear] * 2)])
    nearer = [rng.uniform(-config.perspective, config.perspective) for _ in "xy"]
    return homography(input_size, angle, (along_x, along_y), (nearer[0], nearer[1]))


def homography(
    input_size: InputSize, angle: float, shear: tuple[float, float], nearer: tuple[float, float]
) -> Homography:
    """Shear along x, then along y, a rotation by `angle`, clockwise, and a perspective, about the center of the input.

    Angles are in radians. `nearer`: by which fraction what comes to lie at the right and at the lower side is larger than in the
    center; every output pixel shows a point in front of the camera.
    """
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    along_x, along_y = np.eye(3), np.eye(3)
    along_x[0, 1], along_y[1, 0] = np.tan(shear)
    center = np.array([[1, 0, input_size.width / 2], [0, 1, input_size.height / 2], [0, 0, 1]])
    # the way back, from the output, divides by 1 + x · nearer, with x from -1 to 1: nowhere by 0
    perspective = np.eye(3)
    perspective[2, :2] = -nearer[0] / center[0, 2], -nearer[1] / center[1, 2]
    return np.asarray(center @ perspective @ rotation @ along_y @ along_x @ np.linalg.inv(center))


def warp_into(
    canvas: UInt8[np.ndarray, "height width 3"], image: UInt8[np.ndarray, "h w 3"], matrix: Homography
) -> None:
    """Draw the image where `matrix`, from its pixels to those of the canvas, puts it."""
    height, width = image.shape[:2]
    rim = Outlines.of_boxes(np.array([[0, 0, width, height]], np.float32))
    (box,), (fraction,) = visible_boxes(rim, matrix, InputSize(*canvas.shape[:2]))
    if fraction == 0:
        return
    left, top = np.floor(box[:2]).astype(np.int64).tolist()
    right, bottom = np.ceil(box[2:]).astype(np.int64).tolist()
    # the pixel i, with its center at i + 0.5, is number i to OpenCV
    to_corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    to_region = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]])
    back = np.linalg.inv(to_corner) @ np.linalg.inv(matrix) @ to_region @ to_corner
    size, inverse = (right - left, bottom - top), cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(image, back, size, flags=cv2.INTER_LINEAR | inverse, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpPerspective(np.ones((height, width), np.uint8), back, size, flags=cv2.INTER_NEAREST | inverse)
    np.copyto(canvas[top:bottom, left:right], warped, where=inside[..., None].astype(np.bool_))


def visible_boxes(
    outlines: Outlines, matrix: Homography, input_size: InputSize
) -> tuple[Float64[np.ndarray, "n 4"], Float64[np.ndarray, " n"]]:
    """Of each object the box, xyxy, around what is visible of it after `matrix`, and the fraction of it that is.

    The fraction is that of the boxes around both in the image, before `matrix`: there no object is larger than the image. Exact:
    the extremes of the visible part are points of the outline and corners of the frame. Source for the lines: Liang and
    Barsky, A New Concept and Method for Line Clipping, 1984, here in homogeneous coordinates.
    """
    count = int(outlines.owners.max(initial=-1)) + 1
    starts = outlines.points.astype(np.float64)
    ends = starts[outlines.followers()]
    frame = np.array([[1, 0, 0], [-1, 0, input_size.width], [0, 1, 0], [0, -1, input_size.height]]) @ matrix
    first, second = (points @ frame[:, :2].T + frame[:, 2] for points in (starts, ends))  # inside where not negative
    gain = second - first
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -first / gain
    enter = np.where(gain > 0, crossing, 0).max(axis=1).clip(0)
    leave = np.where(gain < 0, crossing, 1).min(axis=1).clip(max=1)
    seen = (enter <= leave) & ((gain != 0) | (first >= 0)).all(axis=1)
    points = [starts + each[:, None] * (ends - starts) for each in (enter, leave)]
    corners = project(
        np.array([[0, 0], [input_size.width, 0], [input_size.width, input_size.height], [0, input_size.height]], float),
        np.linalg.inv(matrix),
    )
    covered_object, covered_corner = np.nonzero(_covers(outlines, starts, ends, corners, count))
    inside = np.concatenate([points[0][seen], points[1][seen], corners[covered_corner]])
    owners = np.concatenate([outlines.owners[seen], outlines.owners[seen], covered_object])
    whole, visible = _around(starts, outlines.owners, count), _around(inside, owners, count)
    boxes = _around(project(inside, matrix), owners, count).clip(0, [input_size.width, input_size.height] * 2)
    areas = [(each[:, 2:] - each[:, :2]).clip(0).prod(axis=1) for each in (visible, whole)]
    return boxes, areas[0] / areas[1].clip(min=1e-12)


def _covers(
    outlines: Outlines,
    starts: Float64[np.ndarray, "points 2"],
    ends: Float64[np.ndarray, "points 2"],
    points: Float64[np.ndarray, "corners 2"],
    count: int,
) -> Bool[np.ndarray, "n corners"]:
    """Whether each object covers each point: an odd number of its sides crosses the ray to the right of it."""
    x, y = points.T
    between = (starts[:, 1:] > y) != (ends[:, 1:] > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (y - starts[:, 1:]) / (ends[:, 1:] - starts[:, 1:])
        crossed = between & (starts[:, :1] + along * (ends[:, :1] - starts[:, :1]) > x)
    times = np.zeros((count, len(points)), np.int64)
    np.add.at(times, outlines.owners, crossed)
    return np.asarray(times % 2 == 1)


def _around(points: Float64[np.ndarray, "points 2"], owners: np.ndarray, count: int) -> Float64[np.ndarray, "n 4"]:
    """The box around the points of each object, turned inside out where there are none."""
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, owners, points)
    np.maximum.at(high, owners, points)
    return np.concatenate([low, high], axis=1)
