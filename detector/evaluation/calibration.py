"""Calibration: whether of detections with a score of 0.8 eight in ten are right (Guo et al., ICML 2017, arXiv:1706.04599)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

BINS = 10


@dataclass(frozen=True, eq=False)
class Reliability:
    """Detections by score, in `BINS` bins of equal width; a score of 1 is in the last one.

    detections: how many there are; confidence: their mean score; precision: the fraction that is right; the last two are
    NaN where there are none.
    """

    detections: Int64[np.ndarray, " bins"]
    confidence: Float64[np.ndarray, " bins"]
    precision: Float64[np.ndarray, " bins"]

    @property
    def ece(self) -> float | None:
        """Expected calibration error: the mean of |precision - confidence| over the detections; None if there are none."""
        total = int(self.detections.sum())
        gaps = np.nan_to_num(np.abs(self.precision - self.confidence))
        return float((self.detections * gaps).sum() / total) if total else None

    def to_json(self) -> dict[str, Any]:
        rows = zip(self.detections.tolist(), self.confidence.tolist(), self.precision.tolist(), strict=True)
        bins = [
            {
                "from": number / BINS,
                "to": (number + 1) / BINS,
                "detections": count,
                "confidence": confidence if count else None,
                "precision": precision if count else None,
            }
            for number, (count, confidence, precision) in enumerate(rows)
        ]
        return {"ECE": self.ece, "bins": bins}


def reliability(scores: Float64[np.ndarray, " detections"], right: Bool[np.ndarray, " detections"]) -> Reliability:
    """Reliability of detections with these scores, of which these are right."""
    bins = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    count, total, correct = (np.bincount(bins, weights, BINS) for weights in (None, scores, right.astype(np.float64)))
    confidence, precision = np.full(BINS, np.nan), np.full(BINS, np.nan)
    np.divide(total, count, out=confidence, where=count > 0)
    np.divide(correct, count, out=precision, where=count > 0)
    return Reliability(count, confidence, precision)
