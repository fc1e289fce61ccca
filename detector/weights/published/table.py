"""Published weights that `detector weights get` knows by name, and where they are. Plain data: nothing is fetched from here."""

from dataclasses import dataclass

RELEASE = "https://github.com/MultimediaTechLab/YOLO/releases/download/v1.0-alpha"


@dataclass(frozen=True)
class PublishedWeights:
    """What is known of weights for the classes of COCO before they are here.

    model: the network; ap: on COCO val2017, as published for the network, not measured here; license: the publisher's;
    url: of the checkpoint; megabytes: its size, estimated from the shapes of its tensors; sha256: of the checkpoint, None
    where it is not known here.
    """

    model: str
    ap: float
    license: str
    publisher: str
    url: str
    megabytes: int
    sha256: str | None = None


TABLE = {
    "yolov9t-coco": PublishedWeights("yolov9t", 0.383, "MIT", "MultimediaTechLab", f"{RELEASE}/v9-t.pt", 15),
    "yolov9s-coco": PublishedWeights("yolov9s", 0.468, "MIT", "MultimediaTechLab", f"{RELEASE}/v9-s.pt", 39),
    "yolov9m-coco": PublishedWeights("yolov9m", 0.514, "MIT", "MultimediaTechLab", f"{RELEASE}/v9-m.pt", 132),
    "yolov9c-coco": PublishedWeights("yolov9c", 0.530, "MIT", "MultimediaTechLab", f"{RELEASE}/v9-c.pt", 205),
}
