"""Track ids, the same for an object from frame to frame of a video: by ByteTrack (Zhang et al., ECCV 2022) of the package
`trackers`, which belongs to the extra `track`."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from detector.errors import DISTRIBUTION, ConfigError
from detector.inference.streaming import StreamResult

try:
    import supervision
    from trackers import ByteTrackTracker
except ImportError as error:
    raise ConfigError(
        f"--track: needs the package {error.name}: pip install '{DISTRIBUTION}[track]' and then"
        " pip install --no-deps 'trackers>=2.6,<3' (which alone would bring a second OpenCV)"
    ) from error

LOWEST_SCORE = 0.1
"""Of detections that may continue a track, as published."""
RATE = 30.0
"""Steps a second of the motion model; the frames' own times tell how many are between two frames."""
LOST_STEPS = 30
"""After which a track without a detection is given up: a second."""
STEP = 0.001
"""Seconds from a frame to the next where the time stamps don't advance, which the tracker would refuse."""


def track(results: Iterable[StreamResult], shown: Float[Tensor, " classes"]) -> Iterator[StreamResult]:
    """The results of one video, frame by frame, their detections with `track_ids`.

    shown: lowest score of each label; such detections begin tracks and all stay. Weaker ones stay where they continue a
    track. A track has its id from its second frame on; the class of a detection doesn't matter to it.
    """
    tracker = ByteTrackTracker(
        lost_track_buffer=LOST_STEPS, frame_rate=RATE, track_activation_threshold=0.5, high_conf_det_threshold=0.5
    )
    moment = 0.0
    for number, result in enumerate(results):
        found = result.detections
        moment = max(result.time, moment + STEP) if number else result.time
        strong = found.scores >= shown[found.labels]
        given = supervision.Detections(
            xyxy=found.boxes.numpy(), confidence=strong.float().numpy(), data={"index": np.arange(len(found))}
        )
        tracked = tracker.update(given, timestamp=moment)  # in another order
        track_ids = torch.zeros(len(found), dtype=torch.int64)
        if len(tracked):
            track_ids[tracked.data["index"]] = torch.from_numpy(tracked.tracker_id) + 1
        yield result._replace(detections=replace(found, track_ids=track_ids)[strong | (track_ids > 0)])
