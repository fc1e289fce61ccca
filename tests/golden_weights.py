"""The weights of the golden values (DESIGN.md, section 5), drawn the same on every processor.

Run as a script, `golden_weights.py IN OUT`, it draws the entries listed in IN (JSON) and writes them to OUT: torch.randn
gives other last bits under ATEN_CPU_CAPABILITY=default than with AVX2 or AVX-512, so that this setting is taken away first.
"""

import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def draw(key: str, shape: list[int]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))


def drawn(entries: list[tuple[str, list[int]]]) -> dict[str, Tensor]:
    """The normal numbers of all entries, float32."""
    if torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        return {key: draw(key, shape) for key, shape in entries}
    with tempfile.TemporaryDirectory() as folder:
        listed, out = Path(folder) / "entries.json", Path(folder) / "drawn.safetensors"
        listed.write_text(json.dumps(entries))
        environment = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
        subprocess.run([sys.executable, __file__, str(listed), str(out)], env=environment, check=True)
        return load_file(out)


def golden_values(entries: list[tuple[str, list[int]]]) -> dict[str, Tensor]:
    """The published state, by DESIGN.md's rule."""
    random = drawn([(key, shape) for key, shape in entries if not key.endswith("num_batches_tracked")])
    return {key: value_of(key, shape, random.get(key)) for key, shape in entries}


def value_of(key: str, shape: list[int], r: Tensor | None) -> Tensor:
    if r is None:
        return torch.zeros(shape, dtype=torch.int64)
    if ".dfl." in key:
        return torch.arange(16.0).view(shape)
    if key.endswith("running_var"):
        return 1 + 0.1 * r.abs()
    if key.endswith("bn.weight"):
        return 1 + 0.1 * r
    if len(shape) == 4:
        return r * (2 / (r.numel() / shape[0])) ** 0.5
    return 0.1 * r


if __name__ == "__main__":
    save_file({key: draw(key, shape) for key, shape in json.loads(Path(sys.argv[1]).read_text())}, sys.argv[2])
