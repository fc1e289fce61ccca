"""What the doctor has to say: findings, each with how often, where, and what to do."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from detector.images.read import RemoteFile

SEVERITIES = ("error", "warning", "note")
Severity = Literal["error", "warning", "note"]
"""error: the split is refused, or its training or its AP is wrong; warning: likely a fault; note: worth knowing."""
EXIT_CODES: dict[Severity, int] = {"error": 3, "warning": 1, "note": 0}
"""Exit code of the command by its gravest finding; 2 is that of bad input."""
EXAMPLES = 100
"""Largest number of examples of a finding in each split."""


class View(NamedTuple):
    """An image to look at, with boxes (xyxy pixels as the image is read) and a text for each. size: what `read_image` takes."""

    image: Path | RemoteFile
    boxes: Sequence[Sequence[float]] = ()
    texts: Sequence[str] = ()
    size: tuple[int, int] | None = None


class Example(NamedTuple):
    """A place where it happens, in words, and the images that show it."""

    text: str
    views: tuple[View, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One kind of fault.

    code: its name, for programs; what: plural, with what its count counts; counts: how often, by the name of the split;
    remedy: what to do about it; mended: whether `--fix` does it.
    """

    code: str
    severity: Severity
    what: str
    counts: Mapping[str, int]
    remedy: str
    examples: tuple[Example, ...] = ()
    mended: bool = field(default=False, kw_only=True)

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def where(self) -> str:
        """How often in each split, in words."""
        return ", ".join(f"{split} {count:,}" for split, count in self.counts.items())

    def to_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "severity": self.severity,
            "what": self.what,
            "count": self.count,
            "splits": dict(self.counts),
            "remedy": self.remedy,
            "fix": self.mended,
            "examples": [
                {
                    "text": example.text,
                    "images": [
                        {"path": str(view.image), "boxes": [list(box) for box in view.boxes]} for view in example.views
                    ],
                }
                for example in self.examples
            ],
        }


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """The findings of one code and remedy in several splits as one; the gravest come first, else the order stays."""
    by_kind: dict[tuple[str, str], Finding] = {}
    for each in findings:
        key = each.code, each.remedy
        if (known := by_kind.get(key)) is not None:
            counts = {**known.counts, **each.counts}
            each = Finding(
                each.code,
                each.severity,
                each.what,
                counts,
                each.remedy,
                known.examples + each.examples,
                mended=known.mended and each.mended,
            )
        by_kind[key] = each
    return sorted(by_kind.values(), key=lambda finding: SEVERITIES.index(finding.severity))


def exit_code(findings: Iterable[Finding]) -> int:
    """0 without warnings and errors; see `EXIT_CODES`."""
    return max((EXIT_CODES[each.severity] for each in findings), default=0)


def summary(findings: Sequence[Finding]) -> str:
    """The numbers of findings of each severity, in words."""
    counts = {severity: sum(each.severity == severity for each in findings) for severity in SEVERITIES}
    return ", ".join(f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts.items() if count)
