"""Every runtime that is available here with the same weights on the same pictures: what it costs, what it gives."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from detector.benchmarking.measure import Figures, Job
from detector.benchmarking.summary import Row, draw, print_rows
from detector.config import SUFFIXES, BenchmarkConfig, ExportConfig, PathsConfig
from detector.data.coco import CocoImages
from detector.data.splits import split_paths
from detector.errors import ConfigError, DataError, DetectorError
from detector.exporting.export import export
from detector.fileio import require_writable, write_json
from detector.runtimes.load import load_runtime
from detector.weights.files import is_exported, load_weights
from detector.weights.shipped import find_weights

PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "numpy", "opencv-python-headless")


class Variant(NamedTuple):
    """A file of the weights: its name in the tables, and the options of `ExportConfig` that make it."""

    name: str
    options: dict[str, Any]


VARIANTS = (
    Variant("ONNX picture", {"format": "onnx"}),
    Variant("ONNX batched", {"format": "onnx", "batched": True}),
    Variant("ONNX raw", {"format": "onnx", "raw": True}),
    Variant("ONNX raw int8", {"format": "onnx", "raw": True, "precision": "int8"}),
    Variant("OpenVINO", {"format": "openvino"}),
    Variant("OpenVINO float16", {"format": "openvino", "precision": "float16"}),
    Variant("OpenVINO bfloat16", {"format": "openvino", "precision": "bfloat16"}),
    Variant("OpenVINO int8", {"format": "openvino", "precision": "int8"}),
    Variant("TorchScript", {"format": "torchscript"}),
    Variant("torch.export", {"format": "torch_export"}),
    Variant("TensorRT", {"format": "tensorrt"}),
    Variant("TensorRT float16", {"format": "tensorrt", "precision": "float16"}),
)
JUDGED_BY_AP = ("bfloat16", "int8")
"""Precisions whose export needs the data set."""


def benchmark(config: BenchmarkConfig) -> list[Row]:
    """Measure the weights in PyTorch and in every format, or an exported file alone; writes benchmark.json and benchmark.png into
    `config.out` and prints the table and what was left out. Raises DetectorError kinds for what the user can mend."""
    out = Path(config.out)
    require_writable(out)
    exported = is_exported(Path(config.weights))
    weights = Path(config.weights) if exported else find_weights(config.weights)
    info = (load_runtime(weights, config.device, None) if exported else load_weights(weights))[1]
    images = CocoImages.load(split_paths(config.data, PathsConfig(), config.split), info.categories)
    if not any(len(images.boxes(index)) for index in range(len(images))):
        raise DataError(f"{images.annotations_path}: names no object, so there is no AP; choose another --split")
    timed = [str(images.path(i)) for i, _ in islice(images.readable(range(len(images))), config.pictures)]
    if not timed:
        raise DataError(f"{images.annotations_path}: none of its {len(images)} pictures can be read")
    job = Job(
        str(weights),
        timed,
        config.data,
        config.split,
        config.image_size or info.image_size,
        config.device,
        config.threads,
        config.rounds,
        started=0.0,
    )
    name = weights.name if exported else "PyTorch"
    print(f"measuring {name} on {len(job.pictures)} pictures, {config.rounds} times", flush=True)
    rows = [Row(name, size_of(weights), in_its_own_process(job))]
    left_out = {}
    for variant in () if exported else VARIANTS:
        print(f"exporting and measuring {variant.name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows.append(measured(variant, config, job, Path(folder)))
            except DetectorError as error:
                left_out[variant.name] = " ".join(str(error).split()).replace(f"{folder}/", "")
    report = {
        **asdict(config),
        "image_size": job.image_size,
        "machine": machine(),
        "runtimes": [{"name": row.name, "bytes": row.size, **asdict(row.figures)} for row in rows],
        "left_out": left_out,
    }
    write_json(out / "benchmark.json", report)
    draw(rows, out / "benchmark.png", weights.stem, f"{Path(config.data).resolve().name} {config.split}")
    print_rows(rows)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    print(f"written: {out / 'benchmark.json'}, {out / 'benchmark.png'}")
    return rows


def measured(variant: Variant, config: BenchmarkConfig, job: Job, folder: Path) -> Row:
    """Export to the folder and measure the file."""
    file = folder / f"network{SUFFIXES[variant.options['format']]}"
    data = config.data if variant.options.get("precision") in JUDGED_BY_AP else None  # makes the others slower
    options = {"weights": job.file, "out": str(file), "image_size": job.image_size, "data": data, **variant.options}
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        export(ExportConfig(**options))
    return Row(variant.name, size_of(file), in_its_own_process(replace(job, file=str(file))))


def size_of(file: Path) -> int:
    """Bytes, of OpenVINO's with those of the file of numbers beside it."""
    parts = [file, file.with_suffix(".bin")] if file.suffix.lower() == ".xml" else [file]
    return sum(part.stat().st_size for part in parts)


def in_its_own_process(job: Job) -> Figures:
    """The figures of the job. Raises ConfigError with what the process said of a file that can't be used here."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        job = replace(job, started=time.time())
        command = [sys.executable, "-m", "detector.benchmarking.measure", json.dumps(asdict(job)), str(out)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode == DetectorError.exit_code:
            raise ConfigError(done.stderr.strip().splitlines()[-1])
        if done.returncode != 0:
            raise RuntimeError(f"the process that measured ended with {done.returncode}: {done.stderr}")
        return Figures(**json.loads(out.read_bytes()))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": versions,
    }


def processor() -> str:
    """Its name, as Linux tells it, else its architecture."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
