#!/usr/bin/env python3
"""What `detector doctor` finds of faults planted into copies of datasets in the COCO layout, all of tests/planted_faults.py at
once, and what it finds in the datasets as they are, to be judged by eye. With `--weights`, which know the classes of the first
dataset, also a label removed, one of another class and one too many. Exit code 1 if a planted fault is not found."""

import argparse
import json
import runpy
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from detector.config import DoctorConfig
from detector.doctor.doctor import doctor

PLANTED = runpy.run_path(str(Path(__file__).parents[1] / "tests" / "planted_faults.py"))
FAULTS, LABEL_FAULTS = PLANTED["FAULTS"], PLANTED["LABEL_FAULTS"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--weights", help="trained on the first dataset, whose test split gets the faults of labels")
    parser.add_argument("--out", type=Path, required=True, help="folder for the doctor's pages")
    options = parser.parse_args()
    rows, all_missed = [], 0
    for dataset in options.datasets:
        out = options.out / dataset.name
        before = findings(dataset, out / "clean")
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copytree(dataset, Path(folder) / "data"))
            PLANTED["plant_all"](copy)
            missed = PLANTED["missed_faults"](before, findings(copy, out / "planted"))
        planted = len(FAULTS)
        if options.weights and dataset == options.datasets[0]:
            missed += labels_missed(dataset, options.weights, out / "labels")
            planted += len(LABEL_FAULTS)
        all_missed += len(missed)
        clean = ", ".join(f"{each['severity']} {code} {each['count']:,}" for code, each in before.items())
        rows.append(f"| {dataset.name} | {planted - len(missed)} of {planted} | {', '.join(missed)} | {clean} |")
    print(
        "\n".join(
            ["| dataset | planted faults found | missed | found in the dataset as it is |", "| --- " * 4 + "|", *rows]
        )
    )
    return int(all_missed > 0)


def findings(root: Path, out: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """By code, as doctor.json has them."""
    doctor(DoctorConfig(data=str(root), out=str(out), **options))
    return {each["code"]: each for each in json.loads((out / "doctor.json").read_text())["findings"]}


def labels_missed(dataset: Path, weights: str, out: Path) -> list[str]:
    """In the test split alone, which the weights were not trained on."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(dataset, Path(folder) / "data"))
        PLANTED["only_test"](copy)
        before = findings(copy, out / "clean", weights=weights)
        PLANTED["plant_labels"](copy)
        after = findings(copy, out / "planted", weights=weights)
        missed: list[str] = PLANTED["missed_faults"](before, after, LABEL_FAULTS)
        return missed


if __name__ == "__main__":
    sys.exit(main())
