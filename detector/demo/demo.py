"""The whole way on a drawn dataset: draw, train, evaluate, infer, export."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from detector.config import (
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    InferConfig,
    TrainConfig,
)
from detector.demo.scenes import make_dataset
from detector.errors import DataError
from detector.evaluation.evaluate import evaluate
from detector.exporting.export import export
from detector.images.draw import contact_sheet
from detector.inference.infer import infer
from detector.reporting.report import report
from detector.training.loop import train
from detector.utils.fileio import LOCK, folder_lock

IMAGE_SIZE = 256
EPOCHS = 24
MARK = ".detector-demo"
"""File by which a folder is known as the demo's own."""


def demo(config: DemoConfig) -> None:
    """Leaves in `config.out`: data/, train/, metrics.json, detections.json, images/, model.onnx, contact_sheet.png."""
    out = Path(config.out)
    data, run = out / "data", out / "train"
    with folder_lock(out, "demo"):
        replace_earlier(out)
        print(f"drawing a dataset: {data}")
        make_dataset(data, config.seed)
        train(
            TrainConfig(
                data=str(data),
                out=str(run),
                epochs=EPOCHS,
                image_size=IMAGE_SIZE,
                seed=config.seed,
            )
        )
        report(run)
        weights = str(run / "best.safetensors")
        metrics = evaluate(EvaluateConfig(weights=weights, out=str(out), data=str(data), split="test"))
        infer(InferConfig(sources=[str(data / "test")], weights=weights, out=str(out / "images")))
        export(ExportConfig(weights=weights, out=str(out / "model.onnx"), data=str(data)))
        images = [np.asarray(Image.open(path)) for path in sorted((out / "images").glob("*.[jp][pn]g"))[:16]]
        Image.fromarray(contact_sheet(images, columns=4, cell=(320, 320))).save(out / "contact_sheet.png")
        print(
            f"\nAP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f} on {metrics['images']} images that training never saw\n"
            f"  dataset         {data}\n"
            f"  run, weights    {run}\n"
            f"  report          {run / 'report.html'}\n"
            f"  metrics         {out / 'metrics.json'}\n"
            f"  images          {out / 'images'}\n"
            f"  contact sheet   {out / 'contact_sheet.png'}\n"
            f"  ONNX file       {out / 'model.onnx'}"
        )


def replace_earlier(out: Path) -> None:
    """Remove what an earlier demo left in `out`. Raises DataError if somebody else made something there."""
    mark = out / MARK
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(path.name != LOCK for path in out.iterdir()) and not mark.exists():
            raise DataError(f"--out: {out} holds files that no demo made; choose another folder")
        for name in ("data", "train", "images"):
            shutil.rmtree(out / name, ignore_errors=True)
        mark.write_text("made by detector demo, which replaces data/, train/ and images/ here\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"--out: {out} can't be used ({error.strerror}); choose another folder") from error
