"""What all fuzzers share.

from fuzz.mutate import fuzz, mutated

@pytest.mark.slow
def test_a_reader() -> None:
    def check(rng: random.Random) -> None:
        with suppress(DetectorError):
            read(mutated(rng, GOOD))

    fuzz(check)
"""

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

TEST_SECONDS = 20
FEWEST = 50
HANGS_AFTER = 60  # seconds, far more than any input takes on a busy machine
NASTY = (
    b"\0",
    b"\xff",
    b"\n",
    b"[" * 5000,
    b"{" * 5000,
    b"1e999",
    b"-1",
    b"9" * 5000,
    b"\xed\xa0\x80",
    b"NaN",
    b"null",
    b"\\",
)


def fuzz(check: Callable[[random.Random], Any], rounds: int = 2000) -> None:
    """Call `check` with a generator for each round; what it raises, or that it does not end, fails with the round's seed.

    In the tests seeds are 0, 1, …, as many as `rounds` and `TEST_SECONDS` allow, at least `FEWEST`; with FUZZ_SECONDS in the
    environment (make fuzz) it goes on for so long, with seeds that no run has had before.
    """
    endless = "FUZZ_SECONDS" in os.environ
    end = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", TEST_SECONDS))
    seed = time.time_ns() if endless else 0
    first, last = seed, None if endless else rounds

    def hang(_number: int, _frame: object) -> None:
        raise TimeoutError(f"no end after {HANGS_AFTER} s")

    before = signal.signal(signal.SIGALRM, hang)
    try:
        while (time.monotonic() < end or seed < first + FEWEST) and seed != last:
            signal.alarm(HANGS_AFTER)
            try:
                check(random.Random(seed))
            except BaseException as error:
                pytest.fail(f"random.Random({seed}): {type(error).__name__}: {error}", pytrace=False)
            finally:
                signal.alarm(0)
            seed += 1
    finally:
        signal.signal(signal.SIGALRM, before)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The bytes with one to eight changes: flipped, removed, doubled or moved parts, and `NASTY` ones put in."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        start = rng.randint(0, len(content))
        end = min(start + rng.choice((1, 1, 2, 4, 8, 64)), len(content))
        match rng.randrange(6):
            case 0:
                content[start:end] = rng.randbytes(end - start)
            case 1:
                del content[start:end]
            case 2:
                content[start:start] = content[start:end] * rng.choice((1, 2, 100))
            case 3:
                content[start:start] = rng.choice(NASTY)
            case 4 if rng.random() < 0.2:
                del content[start:]
            case _:
                place = rng.randint(0, len(content))
                content[place:place] = content[start:end]
    return bytes(content)
