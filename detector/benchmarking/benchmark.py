"""Every runtime that is available here with the same weights on the same images: what it costs, what it gives."""

import json
import os
import platform
import subprocess
import sys
import time
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from detector.benchmarking.measure import BenchmarkResult, Job
from detector.benchmarking.summary import Row, draw, print_rows
from detector.config import BenchmarkConfig, ExportConfig
from detector.data.load import load_split
from detector.errors import ConfigError, DataError, DetectorError, printable
from detector.exporting.export import export
from detector.formats.load import load_runtime
from detector.formats.table import FORMATS, NEED_DATA, Variant, format_of
from detector.training.logs import processor_name
from detector.utils.fileio import require_apart, require_writable, temporary_dir, write_json
from detector.weights.files import load_weights
from detector.weights.shipped import find_weights

RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino", "executorch", "ai-edge-litert", "tensorrt")
PACKAGES = ("torch", *RUNTIMES, "numpy", "opencv-python-headless")


def benchmark(config: BenchmarkConfig) -> list[Row]:
    """Measure the weights in PyTorch and in every format, or an exported file alone; writes benchmark.json and benchmark.png into
    `config.out` and prints the table and what was skipped. Raises DetectorError kinds for what the user can fix."""
    out = Path(config.out)
    require_writable(out)
    exported = format_of(Path(config.weights)) is not None
    weights = Path(config.weights) if exported else find_weights(config.weights)
    info = (load_runtime(weights, config.device, None) if exported else load_weights(weights))[1]
    dataset = load_split(config.data, config.split, info.categories)
    require_apart([weights, dataset.annotations_path], [out / "benchmark.json", out / "benchmark.png"])
    if not any(len(dataset.boxes(index)) for index in range(len(dataset))):
        raise DataError(f"{dataset.annotations_path}: names no object, so there is no AP; choose another --split")
    timed = [str(dataset.path(i)) for i, _ in islice(dataset.readable(range(len(dataset))), config.images)]
    if not timed:
        raise DataError(
            f"{dataset.annotations_path}: none of its {len(dataset)} images can be read; check the files or take another --data"
        )
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
    print(f"measuring {printable(name)} on {len(job.images)} images, {config.rounds} times", flush=True)
    rows = [Row(name, size_of(weights), in_its_own_process(job))]
    skipped = {}
    variants = [(name, variant) for name, each in FORMATS.items() for variant in each.variants]
    for format_name, variant in [] if exported else variants:
        print(f"exporting and measuring {variant.name}", flush=True)
        with temporary_dir() as folder:
            try:
                rows.append(measured(format_name, variant, config, job, folder))
            except DetectorError as error:
                skipped[variant.name] = str(error).replace(f"{folder}/", "")
    report = {
        **asdict(config),
        "image_size": job.image_size,
        "machine": machine(),
        "runtimes": [{"name": row.name, "bytes": row.size, **asdict(row.result)} for row in rows],
        "skipped": skipped,
    }
    write_json(out / "benchmark.json", report)
    draw(rows, out / "benchmark.png", weights.stem, f"{Path(config.data).resolve().name} {config.split}")
    print_rows(rows)
    for name, reason in skipped.items():
        print(f"skipped: {name}: {reason}")
    print(f"written: {out / 'benchmark.json'}, {out / 'benchmark.png'}")
    return rows


def measured(format_name: str, variant: Variant, config: BenchmarkConfig, job: Job, folder: Path) -> Row:
    """Export to the folder and measure the file."""
    file = folder / f"network{FORMATS[format_name].suffix}"
    export_config = ExportConfig(
        weights=job.file,
        out=str(file),
        format=format_name,
        precision=variant.precision,
        image_size=job.image_size,
        batched=variant.batched,
        raw=variant.raw,
        data=config.data if variant.precision in NEED_DATA else None,  # makes the others slower
    )
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        export(export_config)
    return Row(variant.name, size_of(file), in_its_own_process(replace(job, file=str(file))))


def size_of(file: Path) -> int:
    """Bytes, of OpenVINO's with those of the file of numbers beside it."""
    parts = [file, file.with_suffix(".bin")] if file.suffix.lower() == ".xml" else [file]
    return sum(part.stat().st_size for part in parts)


def in_its_own_process(job: Job) -> BenchmarkResult:
    """Results of the job. Raises ConfigError with what the process said of a file that can't be used here."""
    with temporary_dir() as folder:
        out = folder / "result.json"
        job = replace(job, started=time.time())
        command = [sys.executable, "-m", "detector.benchmarking.measure", json.dumps(asdict(job)), str(out)]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        # its input stays open as long as this process lives: see `end_with_parent`
        with subprocess.Popen(command, stdin=pipe, stdout=nothing, stderr=pipe, text=True) as process:
            assert process.stderr is not None
            errors = process.stderr.read()
        if process.returncode == DetectorError.exit_code:
            raise ConfigError(errors.strip().splitlines()[-1])
        if process.returncode != 0:
            raise RuntimeError(f"the process that measured ended with {process.returncode}: {errors}")
        return BenchmarkResult(**json.loads(out.read_bytes()))


def machine() -> dict[str, Any]:
    """What the results depend on."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "processor": processor_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": versions,
    }
