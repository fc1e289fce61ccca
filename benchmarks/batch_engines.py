#!/usr/bin/env python3
"""`detector batch` on its engines: images/s of Ray beside the local engine, faults, and the memory of the driver.

    batch_engines.py speed --images FOLDER   the same images on both engines in turn, 2 workers each: ratio, spilled bytes
    batch_engines.py faults --images FOLDER  a cluster of two nodes: SIGKILL of 20 workers, of a node, of the driver, and two
                                             drivers at once; in the end the folder is the undisturbed one, byte for byte
    batch_engines.py hosts --images FOLDER   a cluster of two nodes in network namespaces of their own, for which it needs root:
                                             the rows of detector infer, byte for byte
    batch_engines.py memory                  100,000 images of one pixel: the driver's resident memory over time

Exit code 1 where a folder differs, where bytes were spilled, or where the driver grows by more than 5 % in the second half.
"""

import argparse
import os
import random
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image

RESIDENT = "VmRSS:"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "faults", "hosts", "memory"))
    parser.add_argument("--images", help="folder of images")
    parser.add_argument("--weights", default="yolo11n-bccd")
    parser.add_argument("--engine", choices=("local", "ray"), default="ray", help="of memory")
    parser.add_argument("--rounds", type=int, default=3, help="of speed")
    parser.add_argument("--kills", type=int, default=20, help="workers that faults kills")
    parser.add_argument("--count", type=int, default=100_000, help="images of memory")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.what != "memory" and not options.images:
        parser.error("--images is needed")
    with tempfile.TemporaryDirectory() as scratch:
        return {"speed": speed, "faults": faults, "hosts": hosts, "memory": memory}[options.what](
            options, Path(scratch)
        )


def start(
    options: argparse.Namespace, engine: str, images: str, out: Path, *more: str, before: Sequence[str] = ()
) -> "subprocess.Popen[str]":
    command = [
        *before,
        sys.executable,
        "-m",
        "detector",
        "batch",
        images,
        f"--weights={options.weights}",
        f"--out={out}",
    ]
    command += [f"--engine={engine}", "--workers=2", "--device=cpu", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> str:
    """What it printed last."""
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"detector batch ended with {process.returncode}:\n{out}{err}")
    return out.strip().splitlines()[-1]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def cluster(nodes: int, cpus: int) -> Iterator[Any]:
    """A Ray cluster on this machine, to which the commands started in the block connect."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    ray_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        ray_cluster.add_node(num_cpus=cpus)
    os.environ["RAY_ADDRESS"] = ray_cluster.address
    try:
        yield ray_cluster
    finally:
        ray_cluster.shutdown()


def spilled_bytes(address: str) -> int:
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    reply = get_memory_info_reply(get_state_from_address(address))
    return int(reply.store_stats.spilled_bytes_total)


def speed(options: argparse.Namespace, scratch: Path) -> int:
    ratios = []
    with cluster(nodes=1, cpus=2) as ray_cluster:
        for number in range(options.rounds):
            rates = {}
            for engine in ("local", "ray") if number % 2 else ("ray", "local"):
                since = time.monotonic()
                last = finish(start(options, engine, options.images, scratch / f"{engine}{number}"))
                images = int(last.partition("; ")[2].split()[0])
                rates[engine] = images / (time.monotonic() - since)  # of the whole command
                print(f"{engine}: {rates[engine]:.2f} images/s of the whole command; {last}", flush=True)
            ratios.append(rates["ray"] / rates["local"])
        spilled = spilled_bytes(ray_cluster.address)
    same = content(scratch / "ray0") == content(scratch / "local0")
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(
        f"ray/local: {statistics.median(ratios):.3f} ({spread}); {spilled} bytes spilled; {'same' if same else 'OTHER'} files"
    )
    return 0 if same and not spilled else 1


def workers() -> list[int]:
    """The processes of Ray's workers that detect."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_Actor.do"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def faults(options: argparse.Namespace, scratch: Path) -> int:
    choose = random.Random(options.seed)
    finish(start(options, "local", options.images, scratch / "undisturbed", "--part_size=50"))
    undisturbed = content(scratch / "undisturbed")
    result = 0

    def check(name: str, folder: Path, how: str) -> None:
        nonlocal result
        same = content(folder) == undisturbed
        result |= not same
        print(f"{name}: {how}; {'the same files' if same else 'OTHER FILES'}", flush=True)

    with cluster(nodes=2, cpus=1) as ray_cluster:
        process, killed = start(options, "ray", options.images, scratch / "workers", "--part_size=50"), 0
        while process.poll() is None and killed < options.kills:
            time.sleep(choose.uniform(0.5, 3))
            if found := workers():
                os.kill(choose.choice(found), signal.SIGKILL)
                killed += 1
        check("workers", scratch / "workers", f"{killed} killed; {finish(process)}")

        process = start(options, "ray", options.images, scratch / "node", "--part_size=50")
        while not workers():
            time.sleep(0.1)
        time.sleep(choose.uniform(1, 8))
        ray_cluster.remove_node(next(iter(ray_cluster.worker_nodes)), allow_graceful=False)
        ray_cluster.add_node(num_cpus=1)
        check("node", scratch / "node", f"1 of 2 killed, another added; {finish(process)}")

        process = start(options, "ray", options.images, scratch / "driver", "--part_size=50")
        while not workers():
            time.sleep(0.1)
        time.sleep(choose.uniform(1, 8))
        process.kill()
        process.communicate()
        until = time.monotonic() + 60
        while (left := workers()) and time.monotonic() < until:
            time.sleep(0.1)
        result |= bool(left)
        again = finish(start(options, "ray", options.images, scratch / "driver", "--part_size=50"))
        check("driver", scratch / "driver", f"killed, {len(left)} of its workers left after 60 s; again: {again}")

        drivers = [
            start(options, "ray", options.images, scratch / "two", "--part_size=50", "--workers=1") for _ in range(2)
        ]
        check("two drivers", scratch / "two", " / ".join(finish(driver) for driver in drivers))
    return result


HEAD, OTHER = "10.77.0.1", "10.77.0.2"
PORTS = {
    "dashboard-agent-grpc": 6380,
    "dashboard-agent-listen": 6381,
    "runtime-env-agent": 6382,
    "metrics-export": 6383,
}
"""Of each node: it would wait only 15 s for those that its helpers choose, who are slow on a busy machine."""


@contextmanager
def two_hosts() -> Iterator[tuple[list[str], list[str]]]:
    """Two network namespaces that see nothing but each other: what to put before a command for it to run there."""
    names = [f"detector{number}-{os.getpid()}" for number in (1, 2)]
    cables = [f"det{number}-{os.getpid()}" for number in (1, 2)]
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        ends = ["ip", "link", "add", cables[0], "netns", names[0], "type", "veth", "peer", "name", cables[1]]
        subprocess.run([*ends, "netns", names[1]], check=True)
        for name, cable, address in zip(names, cables, (HEAD, OTHER), strict=True):
            for command in (f"addr add {address}/24 dev {cable}", f"link set {cable} up", "link set lo up"):
                subprocess.run(["ip", "-n", name, *command.split()], check=True)
        yield ["ip", "netns", "exec", names[0]], ["ip", "netns", "exec", names[1]]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


COUNT = f"""
import sys, ray
ray.init(address="{HEAD}:6379", logging_level="ERROR", log_to_driver=False)
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]))
"""


def add_node(
    before: Sequence[str], options: Sequence[str], count: int, first: Sequence[str]
) -> "subprocess.Popen[bytes]":
    """Start a node, the cluster's `count`-th; again if it ends, since Ray gives it 30 s to start."""
    command = [
        *before,
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--block",
        "--disable-usage-stats",
        "--no-monitor",
    ]
    command += [f"--{name}-port={port}" for name, port in PORTS.items()]
    look = [*first, "timeout", "200", sys.executable, "-c", COUNT, str(count)]
    for _ in range(5):
        node = subprocess.Popen([*command, "--num-cpus=1", *options], stdout=subprocess.DEVNULL, start_new_session=True)
        while node.poll() is None:
            time.sleep(10)  # to look costs as much as to start
            if not subprocess.run(look, check=False, capture_output=True).returncode:
                return node
    raise SystemExit("no node of the Ray cluster has started in 5 tries")


def hosts(options: argparse.Namespace, scratch: Path) -> int:
    head = ["--head", "--include-dashboard=false", f"--node-ip-address={HEAD}", "--port=6379"]
    other = [f"--address={HEAD}:6379", f"--node-ip-address={OTHER}"]
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex()}
    seen: set[str] = set()
    with two_hosts() as (first, second):
        nodes = []
        try:
            nodes.append(add_node(first, head, 1, first))
            nodes.append(add_node(second, other, 2, first))
            process = start(
                options, "ray", options.images, scratch / "out", before=[*first, "env", f"RAY_ADDRESS={HEAD}:6379"]
            )
            while process.poll() is None:
                for worker in workers():
                    with suppress(OSError):  # it has ended
                        seen.add(str(Path(f"/proc/{worker}/ns/net").readlink()))
                time.sleep(0.2)
            last = finish(process)
        finally:
            for node in nodes:
                node.terminate()
            for node in nodes:
                node.wait()
    detector = [sys.executable, "-m", "detector"]
    infer = ["infer", options.images, f"--weights={options.weights}", f"--out={scratch / 'infer'}", "--save=json"]
    subprocess.run([*detector, "join_batch", str(scratch / "out")], check=True)
    subprocess.run([*detector, *infer, "--threads=1", "--device=cpu"], check=False, stdout=subprocess.DEVNULL)
    same = (scratch / "out" / "detections.json").read_bytes() == (scratch / "infer" / "detections.json").read_bytes()
    print(f"{last}; workers in {len(seen)} namespaces; {'the rows of infer' if same else 'OTHER ROWS'}")
    return 0 if same and len(seen) == 2 else 1


def memory(options: argparse.Namespace, scratch: Path) -> int:
    (scratch / "pixels").mkdir()
    for number in range(options.count):
        Image.new("RGB", (1, 1)).save(scratch / "pixels" / f"{number:06}.ppm")
    (scratch / "list.txt").write_text("\n".join(str(path) for path in sorted((scratch / "pixels").iterdir())))
    resident: list[tuple[float, float]] = []
    process = start(options, options.engine, str(scratch / "list.txt"), scratch / "out", "--image_size=32")
    begin = time.monotonic()
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        line = next((line for line in status if line.startswith(RESIDENT)), None)
        if line and any((scratch / "out").glob("parts/*.parquet")):
            resident.append((time.monotonic() - begin, int(line.split()[1]) / 1024))
        time.sleep(1)
    last = finish(process)
    half, end = resident[len(resident) // 2][1], resident[-1][1]
    print(
        f"{last}; driver: {resident[0][1]:.0f} MiB after its first part, {half:.0f} at half time, {end:.0f} at the end"
    )
    return 0 if end <= 1.05 * half else 1


if __name__ == "__main__":
    sys.exit(main())
