"""Published weights that `detector weights get` knows by name, and where they are. Plain data: nothing is fetched from here."""

from dataclasses import dataclass

from detector.structures import Categories

RELEASE = "https://github.com/MultimediaTechLab/YOLO/releases/download/v1.0-alpha"


@dataclass(frozen=True)
class PublishedWeights:
    """What is known of weights before they are here.

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

COCO_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, "
    "laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, "
    "scissors, teddy bear, hair drier, toothbrush"
)
COCO_GAPS = {66, 68, 69, 71, 12, 45, 83, 26, 29, 30}
COCO = Categories(tuple(number for number in range(1, 91) if number not in COCO_GAPS), tuple(COCO_NAMES.split(", ")))
"""The 80 classes of COCO, in label order; its ids have gaps."""
