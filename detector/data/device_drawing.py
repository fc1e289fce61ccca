"""Drawings of a batch, packed into a few tensors by a worker and drawn with PyTorch on any device.

The worker works out where things lie, and copies of each source only what the output shows of it. The pixels are those of
`Drawing.pixels` but for rounding: bilinear like there, but at exact positions where OpenCV takes fractions of a pixel, and
rounded to whole levels once, at the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from torch import Tensor

from detector.data.drawing import Drawing, Part
from detector.data.outlines import project
from detector.images.input_size import InputSize
from detector.images.letterbox import PAD_VALUE

MARGIN = 2
"""Source pixels taken along around what the output shows: bilinear sampling looks up to one farther."""
DRAWN_AT_ONCE = 2**22
"""Pixels of the output, of which each takes about 200 bytes of memory while it is drawn."""
BACK, BOUNDS, REGION, PLACE = slice(0, 9), slice(9, 13), slice(13, 17), slice(17, 20)
"""Columns of `PackedDrawings.parts`."""


@dataclass(frozen=True)
class PackedDrawings:
    """What it takes to draw a batch of images of one size.

    pixels: (n, 3) uint8 RGB, what is shown of the parts' sources, one after another, row by row;
    parts: (batch, layers, parts, 20) float64: the matrix from the output's pixels to the part's, row by row (9); left, top, right,
    bottom of where a part's pixels are drawn from (4) and of the region of the output (4); the part's place in `pixels`, its width
    and its height (3). Layers with fewer parts end with some of no region;
    fractions: (batch, layers) float64, how much of the layers below shows through;
    masks: (m, height, width) bool, where they show through; mask_of: (batch, layers) int64, -1 for a fraction;
    colors: (batch, 3, 3) float64, RGB to RGB; flips: (batch, 2) bool, mirrored and upside down.
    """

    size: InputSize
    pixels: UInt8[Tensor, "n 3"]
    parts: Float64[Tensor, "batch layers parts 20"]
    fractions: Float64[Tensor, "batch layers"]
    masks: Bool[Tensor, "m height width"]
    mask_of: Int64[Tensor, "batch layers"]
    colors: Float64[Tensor, "batch 3 3"]
    flips: Bool[Tensor, "batch 2"]

    @classmethod
    def of(cls, drawings: Sequence[Drawing]) -> "PackedDrawings":
        """Pack drawings of one size; what is shown of their sources is copied."""
        (size,) = {drawing.size for drawing in drawings}
        shape = len(drawings), max(len(drawing.layers) for drawing in drawings)
        most = max(1, *(len(layer.parts) for drawing in drawings for layer in drawing.layers))
        parts = np.zeros((*shape, most, PLACE.stop))
        parts[..., BACK], parts[..., PLACE] = np.eye(3).ravel(), (0, 1, 1)
        fractions, mask_of = np.ones(shape), np.full(shape, -1)
        masks: list[Bool[np.ndarray, "height width"]] = []
        cuts: list[UInt8[np.ndarray, "_h _w 3"]] = []
        filled = 0
        for row, drawing in enumerate(drawings):
            for column, layer in enumerate(drawing.layers):
                if isinstance(layer.transparency, float):
                    fractions[row, column] = layer.transparency
                else:
                    mask_of[row, column] = len(masks)
                    masks.append(layer.transparency)
                for place, part in enumerate(layer.parts):
                    cut, geometry = shown(part, size)
                    if cut.size > 0:
                        parts[row, column, place] = *geometry, filled, cut.shape[1], cut.shape[0]
                        cuts.append(cut)
                        filled += cut.shape[0] * cut.shape[1]
        colors = [np.eye(3) if drawing.colors is None else drawing.colors for drawing in drawings]
        return cls(
            size,
            joined_pixels(cuts),
            torch.from_numpy(parts),
            torch.from_numpy(fractions),
            torch.from_numpy(np.array(masks, np.bool_).reshape(-1, *size)),
            torch.from_numpy(mask_of),
            torch.from_numpy(np.array(colors)),
            torch.tensor([[drawing.mirrored, drawing.upside_down] for drawing in drawings]),
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PackedDrawings":
        """With each tensor changed."""
        tensors = (change(getattr(self, each.name)) for each in fields(self)[1:])
        return PackedDrawings(self.size, *tensors)

    def pin_memory(self) -> "PackedDrawings":
        return self._each(Tensor.pin_memory)

    def draw(self, device: torch.device) -> UInt8[Tensor, "batch 3 height width"]:
        """The images, drawn on the device; they lie in memory with their channels last, as the networks take them."""
        there = self._each(lambda tensor: tensor.to(device, non_blocking=True))
        images = torch.empty(len(self.parts), *self.size, 3, dtype=torch.uint8, device=device)
        step = max(DRAWN_AT_ONCE // (self.size.height * self.size.width), 1)
        for first in range(0, len(images), step):
            some = slice(first, first + step)
            images[some] = there._drawn(some)
        return images.permute(0, 3, 1, 2)

    def _drawn(self, some: slice) -> UInt8[Tensor, "some height width 3"]:
        """Some of the images."""
        columns, rows = (torch.arange(side, device=self.pixels.device) for side in self.size[::-1])
        mirrored, upside_down = (flip[:, None] for flip in self.flips[some].unbind(1))
        # a flip changes which pixel of the drawing each output pixel is, and nothing else
        x = torch.where(mirrored, columns.flip(0), columns)[:, None, :]
        y = torch.where(upside_down, rows.flip(0), rows)[:, :, None]
        parts, fractions, mask_of = self.parts[some], self.fractions[some].float(), self.mask_of[some]
        image = draw_layer(self.pixels, parts[:, 0], x, y)
        for layer in range(1, parts.shape[1]):
            through = fractions[:, layer, None, None]
            if len(self.masks):
                number = mask_of[:, layer, None, None]
                through = torch.where(number < 0, through, self.masks[number.clamp_min(0), y, x].float())
            above, through = draw_layer(self.pixels, parts[:, layer], x, y), through[..., None]
            image = image * through + above * (1 - through)
        matrix = self.colors[some].float()[:, None, None]
        red, green, blue = image.unsqueeze(-1).unbind(3)
        image = red * matrix[..., 0] + green * matrix[..., 1] + blue * matrix[..., 2]
        return image.round().clamp(0, 255).byte()


def shown(part: Part, size: InputSize) -> tuple[UInt8[np.ndarray, "h w 3"], Float64[np.ndarray, "17"]]:
    """What an output of `size` shows of a part's source image; matrix, bounds and region as `PackedDrawings.parts` has them."""
    height, width = part.image.shape[:2]
    region = (0, 0, size.width, size.height) if part.region is None else part.region
    back = np.linalg.inv(part.matrix)
    seen = project(np.array(region, np.float64)[[[0, 1], [2, 1], [2, 3], [0, 3]]], back)  # convex, like the region
    left, top = (np.floor(seen.min(axis=0)) - MARGIN).clip(0, (width, height)).astype(np.int64).tolist()
    right, bottom = (np.ceil(seen.max(axis=0)) + MARGIN).clip(0, (width, height)).astype(np.int64).tolist()
    to_cut = np.array([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]])
    bounds = [-np.inf, -np.inf, np.inf, np.inf]  # a region that is given ends on whole pixels, the source in between
    if part.region is None:
        bounds = [-left, -top, width - left, height - top]
    return part.image[top:bottom, left:right], np.concatenate([(to_cut @ back).ravel(), bounds, region])


def joined_pixels(cuts: Sequence[UInt8[np.ndarray, "_h _w 3"]]) -> UInt8[Tensor, "n 3"]:
    """The pixels of all the images, row by row; one more at the end, so that there is one."""
    pixels = np.zeros((sum(cut.shape[0] * cut.shape[1] for cut in cuts) + 1, 3), np.uint8)
    filled = 0
    for cut in cuts:
        end = filled + cut.shape[0] * cut.shape[1]
        pixels[filled:end].reshape(cut.shape)[:] = cut
        filled = end
    return torch.from_numpy(pixels)


def draw_layer(
    pixels: UInt8[Tensor, "n 3"],
    parts: Float64[Tensor, "batch parts 20"],
    x: Int64[Tensor, "batch 1 width"],
    y: Int64[Tensor, "batch height 1"],
) -> Float32[Tensor, "batch height width 3"]:
    """One layer of the images at the output's pixels in columns x and rows y."""
    covered = torch.zeros(1, dtype=torch.bool, device=pixels.device)
    shows = torch.zeros(1, dtype=torch.int64, device=pixels.device)  # the part that a pixel shows, if it is covered
    u = v = torch.zeros(1, device=pixels.device)
    geometry = parts[:, :, : PLACE.start].float()
    for number in range(parts.shape[1]):
        values = geometry[:, number, :, None, None].unbind(1)
        here_u, here_v = apply(values[BACK], x + 0.5, y + 0.5)
        left, top, right, bottom = values[BOUNDS]
        inside = (here_u >= left) & (here_u < right) & (here_v >= top) & (here_v < bottom)
        left, top, right, bottom = values[REGION]
        inside = inside & (x >= left) & (x < right) & (y >= top) & (y < bottom)
        shows, u, v = (torch.where(inside, new, old) for new, old in ((number, shows), (here_u, u), (here_v, v)))
        covered = covered | inside
    places = parts[..., PLACE].long()
    start, width, height = (each.gather(1, shows.flatten(1)).view_as(shows) for each in places.unbind(2))
    image = sample(pixels, start, width, height, u - 0.5, v - 0.5)
    return torch.where(covered[..., None], image, PAD_VALUE)


def apply(matrix: Sequence[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A homography, its nine numbers row by row, at points; without a matrix product, which GPUs may compute in fewer digits."""
    a, b, c, d, e, f, g, h, i = matrix
    nearness = g * x + h * y + i
    return (a * x + b * y + c) / nearness, (d * x + e * y + f) / nearness


def sample(
    pixels: UInt8[Tensor, "n 3"],
    start: Int64[Tensor, "batch height width"],
    width: Int64[Tensor, "batch height width"],
    height: Int64[Tensor, "batch height width"],
    u: Float32[Tensor, "batch height width"],
    v: Float32[Tensor, "batch height width"],
) -> Float32[Tensor, "batch height width 3"]:
    """Bilinear: each from an image of its own, at column u and row v, where pixels have their centers at whole numbers; what is
    beyond the rim is like the rim. start: the first pixel of that image in `pixels`."""
    left, above = u.floor(), v.floor()
    to_right, down = (u - left)[..., None], (v - above)[..., None]
    columns, rows = (
        [(first.long() + step).clamp_min(0).minimum(count - 1) for step in (0, 1)]
        for first, count in ((left, width), (above, height))
    )
    corners = [[pixels[start + row * width + column].float() for column in columns] for row in rows]
    upper, lower = (one.lerp(other, to_right) for one, other in corners)
    return upper.lerp(lower, down)
