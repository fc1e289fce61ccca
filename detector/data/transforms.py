"""The albumentations transforms of a configuration; imported only where there are any, as the package then is, too."""

import difflib
import os
import warnings
from typing import Any

import numpy as np

from detector.data.sample import Sample
from detector.errors import ConfigError

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for a newer version when imported
try:
    import albumentations
except ImportError as error:
    raise ConfigError(
        f"augment.transforms: albumentations can't be imported ({error}); pip install 'albumentations<2.1', or leave them out"
    ) from error

CROWD = -1
"""Label under which crowd regions travel through the pipeline, so that they move with the image."""


class Pipeline:
    """albumentations transforms on images with boxes (xyxy pixels, of the image before and after)."""

    def __init__(self, transforms: list[dict[str, dict[str, Any]]]) -> None:
        self._compose = albumentations.Compose(
            [_build(i, entry) for i, entry in enumerate(transforms)],
            bbox_params=albumentations.BboxParams(
                format="pascal_voc", label_fields=["labels"], clip=True, filter_invalid_bboxes=True
            ),
        )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Transform a sample; all randomness comes from `rng`."""
        self._compose.set_random_seed(int(rng.integers(2**31)))
        crowd_labels = np.full(len(sample.crowd_boxes), CROWD, dtype=np.int64)
        try:
            result = self._compose(
                image=sample.image,
                bboxes=np.concatenate((sample.boxes, sample.crowd_boxes)),
                labels=np.concatenate((sample.labels, crowd_labels)),
            )
        except Exception as error:  # an argument that is only used now
            raise ConfigError(f"augment.transforms: {type(error).__name__} {error}; correct their arguments") from error
        if result["image"].shape != sample.image.shape:
            shapes = f"from {sample.image.shape} to {result['image'].shape}"
            raise ConfigError(f"augment.transforms change the image's shape {shapes}: leave out what crops or resizes")
        boxes = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        labels = np.asarray(result["labels"], dtype=np.int64).reshape(-1)
        crowd = labels == CROWD
        return Sample(np.ascontiguousarray(result["image"]), boxes[~crowd], labels[~crowd], boxes[crowd])


def _build(index: int, entry: dict[str, dict[str, Any]]) -> albumentations.BasicTransform:
    if len(entry) != 1:
        raise ConfigError(f"augment.transforms[{index}] has {len(entry)} names: write one transform an entry")
    ((name, arguments),) = entry.items()
    transform = getattr(albumentations, name, None)
    if not (isinstance(transform, type) and issubclass(transform, albumentations.BasicTransform)):
        known = [n for n in dir(albumentations) if isinstance(getattr(albumentations, n), type)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"augment.transforms[{index}]: albumentations has no transform {name!r}{hint}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an argument it does not know is only warned of
            return transform(**(arguments or {}))
    except Exception as error:  # whatever the transform makes of an argument of another type
        raise ConfigError(f"augment.transforms[{index}], {name}: {error}") from error
