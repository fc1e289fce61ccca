"""spark-submit examples/spark.py LIST.parquet OUT WEIGHTS: detect in the images that a column `path` names, on Spark."""

import sys
from collections.abc import Iterator

import pandas as pd

from detector import Detector
from detector.errors import DetectorError

SCHEMA = "path string, boxes array<array<float>>, scores array<float>, names array<string>, error string"


def rows(frames: Iterator[pd.DataFrame], weights: str) -> Iterator[pd.DataFrame]:
    detector = Detector.load(weights, device="cpu", threads=1)  # once for each task
    for frame in frames:
        found = []
        for path in frame["path"]:
            try:
                one = detector(path)
                found.append((path, one.boxes.tolist(), one.scores.tolist(), one.names, None))
            except DetectorError as error:
                found.append((path, None, None, None, str(error)))
        yield pd.DataFrame(found, columns=["path", "boxes", "scores", "names", "error"])


if __name__ == "__main__":
    from pyspark.sql import SparkSession

    paths, out, weights = sys.argv[1:]
    images = SparkSession.builder.getOrCreate().read.parquet(paths).select("path").repartition(8)  # tasks
    images.mapInPandas(lambda frames: rows(frames, weights), SCHEMA).write.parquet(out)
