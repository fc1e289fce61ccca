"""Nothing that the default installation or an extra other than `video` and `track` brings is under the GPL or AGPL.

What is audited is what is installed here, so the wheels of this platform: what their metadata state, and the shared
libraries that they bundle, by name and by content. The LGPL is no finding. Both extras bring PyAV, whose wheels bundle
libx264 and libx265 (and are what the audit itself is tested on); `dev` is audited but for that, and with `trackers`, which
nothing requires (docs/infer.md says why).
"""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from detector.errors import DISTRIBUTION

EXTRAS = frozenset({"export", "batch"})
DEVELOPMENT = frozenset({"export", "dev"})

GPL = re.compile(r"(?<![A-Za-z])A?GPL|Affero|(?<!Lesser )(?<!Library )General Public Licen[cs]e", re.IGNORECASE)
LIBRARY = re.compile(r"\.(so|dylib|dll|pyd)(\.|$)")
GPL_LIBRARIES = re.compile(
    r"(x264|x265|xvidcore|postproc|vidstab|rubberband|fftw3|gsl|readline|umfpack|cholmod|gfortran|gomp|gcc_s|stdc\+\+)"
    r"(?![a-z])"
)
MARKERS = {
    # not "x264 - core": FFmpeg's own decoder looks for that in videos
    b"H.264/MPEG-4 AVC codec - Copy": "libx264",
    b"HEVC encoder version": "libx265",
    b"--enable-gpl": "FFmpeg configured under the GPL",
    b"--enable-libx26": "FFmpeg configured with libx264 or libx265",
    b" license: GPL": "FFmpeg that states the GPL",
    b"nonfree and unredistributable": "FFmpeg that states to be nonfree",
}

GCC = "the GCC Runtime Library Exception lets programs of any license use GCC's runtime libraries"
ALLOWED = {
    "GPL-3.0-or-later WITH GCC-exception-3.1": GCC,
    "gfortran": GCC,
    "gomp": GCC,
    "gcc_s": GCC,
    "stdc++": GCC,
}
"""What would be a finding, and the reason why it is none."""


def reachable(name: str, extras: frozenset[str]) -> dict[str, Distribution]:
    """The installed distributions that `name` with these extras requires, itself included, by canonical name.

    Raises PackageNotFoundError for one that is missing: what is not here can't be audited.
    """
    asked: dict[str, frozenset[str]] = {}
    waiting = [(canonicalize_name(name), extras)]
    while waiting:
        name, extras = waiting.pop()
        if name in asked and extras <= asked[name]:
            continue
        asked[name] = extras = extras | asked.get(name, frozenset())
        for text in distribution(name).requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    return {name: distribution(name) for name in sorted(asked)}


def statements(package: Distribution) -> list[str]:
    """The licenses that a distribution states: metadata, or the titles of its license files where these say nothing.

    Where the metadata hold whole texts, their first line and the lines "License: ..." on bundled parts.
    """
    found = [package.metadata.get("License-Expression") or ""]
    found += [text for text in package.metadata.get_all("Classifier", []) if text.startswith("License ::")]
    lines = [line.strip() for line in (package.metadata.get("License") or "").splitlines() if line.strip()]
    found += lines[:1] + [line.removeprefix("License:").strip() for line in lines[1:] if line.startswith("License:")]
    found = [text for text in found if text]
    if not found:
        for file in package.files or []:
            if re.match(r"(licen[cs]e|copying)", file.name, re.IGNORECASE):
                found.append(" ".join(Path(str(file.locate())).read_text(encoding="utf-8").split()[:6]))
    return found


def is_gpl(statement: str) -> bool:
    """Whether nothing but the (A)GPL is on offer."""
    offers = [statement] if " AND " in statement else statement.split(" OR ")
    return all(GPL.search(offer) for offer in offers)


def libraries(package: Distribution) -> list[Path]:
    paths = (Path(str(file.locate())) for file in package.files or [] if LIBRARY.search(file.name))
    return [path for path in paths if path.is_file()]


def content_findings(path: Path) -> set[str]:
    """What the markers in a file tell."""
    found: set[str] = set()
    end = b""
    with path.open("rb") as file:
        while part := file.read(1 << 26):
            part = end + part
            found |= {meaning for marker, meaning in MARKERS.items() if marker in part}
            end = part[-max(map(len, MARKERS)) :]
    return found


def findings(package: Distribution) -> list[str]:
    """What is under the (A)GPL in a distribution and not allowed, a line each."""
    name, stated = package.metadata["Name"], statements(package)
    found = [f"{name}: states {text}" for text in stated if is_gpl(text) and text not in ALLOWED]
    if not stated and any(".dist-info" not in str(file) for file in package.files or []):
        found.append(f"{name}: states no license")
    for path in libraries(package):
        named = GPL_LIBRARIES.search(path.name)
        if named and named[1] not in ALLOWED:
            found.append(f"{name}: {path.name} by its name")
        found += [f"{name}: {path.name} holds {meaning}" for meaning in sorted(content_findings(path))]
    return found


@pytest.mark.slow
def test_nothing_that_a_user_gets_is_under_the_gpl() -> None:
    packages = reachable(DISTRIBUTION, DEVELOPMENT)
    del packages["av"]
    packages["trackers"] = distribution("trackers")
    found = [line for package in packages.values() for line in findings(package)]
    assert not found, "\n".join(found)


def test_the_audit_reaches_what_is_installed_and_no_other_extras() -> None:
    default, export = (reachable(DISTRIBUTION, extras) for extras in (frozenset(), EXTRAS))
    assert {"attention-detector", "torch", "opencv-python-headless", "albumentations", "scipy"} <= default.keys()
    assert "typeshed-client" in default  # of the extra `signatures` of jsonargparse
    assert {"onnxruntime", "openvino", "nncf"} <= export.keys() - default.keys()
    assert not {"av", "supervision", "mypy", "hypothesis"} & export.keys()
    assert any(re.search("avcodec|ffmpeg", path.name) for path in libraries(default["opencv-python-headless"]))


def test_the_audit_finds_what_is_in_pyav() -> None:
    """Its metadata say BSD, and its FFmpeg says LGPL."""
    found = findings(distribution("av"))
    assert any(re.search(r"libx264\S* by its name", line) for line in found)
    assert any(re.search(r"libx265\S* by its name", line) for line in found)
    for meaning in ("libx264", "libx265", MARKERS[b"--enable-libx26"]):
        assert any(line.endswith(f"holds {meaning}") for line in found), meaning


def test_what_is_missing_is_no_pass() -> None:
    with pytest.raises(PackageNotFoundError):
        reachable("no-such-distribution", frozenset())


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("GPL-3.0-only", True),
        ("AGPL-3.0", True),
        ("GNU AFFERO GENERAL PUBLIC LICENSE", True),
        ("License :: OSI Approved :: GNU General Public License v3 or later (GPLv3+)", True),
        ("GPL v2 or later", True),
        ("MIT AND GPL-2.0-or-later", True),
        ("(MIT OR GPL-2.0-only) AND GPL-3.0-only", True),
        ("GPL-2.0-only OR AGPL-3.0-only", True),
        ("FTL OR GPL-2.0-or-later", False),
        ("LGPL-2.1-or-later", False),
        ("License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", False),
        ("Apache-2.0", False),
    ],
)
def test_statements(statement: str, found: bool) -> None:
    assert is_gpl(statement) is found


@pytest.mark.parametrize("before", [0, (1 << 26) - 5, 1 << 26])
def test_markers_are_found_wherever_they_are(tmp_path: Path, before: int) -> None:
    (tmp_path / "libavcodec.so").write_bytes(bytes(before) + b"--prefix=/usr --enable-gpl --enable-shared" + bytes(9))
    assert content_findings(tmp_path / "libavcodec.so") == {MARKERS[b"--enable-gpl"]}


def fake(folder: Path, metadata: str, files: dict[str, bytes]) -> Distribution:
    info = folder / "fake-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: fake\nVersion: 1\n{metadata}\n")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in ("fake-1.dist-info/METADATA", *files)))
    return Distribution.at(info)


@pytest.mark.parametrize(
    ("metadata", "files", "found"),
    [
        ("License-Expression: MIT", {"a.py": b""}, []),
        ("License-Expression: GPL-3.0-only", {}, ["fake: states GPL-3.0-only"]),
        ("", {}, []),  # a list of others
        ("", {"a.py": b""}, ["fake: states no license"]),
        ("", {"a.py": b"", "LICENSE": b" Apache License\n"}, []),
        ("", {"a.py": b"", "COPYING": b" GNU GENERAL PUBLIC\n LICENSE\n"}, ["fake: states GNU GENERAL PUBLIC LICENSE"]),
        ("License: BSD\n        Name: x\n        License: GPL-2.0-only", {}, ["fake: states GPL-2.0-only"]),
        ("License: MIT", {"libpostproc-12ab.so.57": b""}, ["fake: libpostproc-12ab.so.57 by its name"]),
        ("License: MIT", {"libgomp-12ab.so.1": b""}, []),
    ],
)
def test_distributions(tmp_path: Path, metadata: str, files: dict[str, bytes], found: list[str]) -> None:
    assert findings(fake(tmp_path, metadata, files)) == found
