"""Starting from weights of other classes: what fits is taken, and classes of equal names keep their rows."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detector.models.base import DetectionModel
from detector.nn.head import DetectionHead
from detector.structures import Categories

MAX_NAMES = 6
"""Names that a list shows before it ends in their number."""


@torch.no_grad()
def transfer(model: DetectionModel, categories: Categories, source: DetectionModel, known: Categories) -> str:
    """Take what `source`, the same network for the classes `known`, has learned into `model`, made for `categories`.

    A layer is taken whole, or not at all where its width depends on the number of classes. Of the last layers of the
    class branches, which have a row a class, the rows of classes with equal names are taken (where a name is there more
    than once: the first row to the first). All else keeps its initialization. Returns one line that says so.
    """
    rows = rows_of_equal_names(categories.names, known.names)
    heads = [module for module in model.modules() if isinstance(module, DetectionHead)]
    with_rows = [branch[-1] for head in heads for branch in head.class_branches]  # type: ignore[index]
    same_width = True
    for own, other in zip(model.modules(), source.modules(), strict=True):
        pairs = list(zip(_tensors(own), _tensors(other), strict=True))
        if any(own is layer for layer in with_rows) and own.in_channels == other.in_channels:
            for mine, learned in pairs:
                mine[list(rows)] = learned[list(rows.values())]
        elif all(mine.shape == learned.shape for mine, learned in pairs):
            for mine, learned in pairs:
                mine.copy_(learned)
        else:
            same_width = False
    if not same_width:
        return (
            f"no class is kept: with {len(categories)} classes the class branch is of another width than with"
            f" {len(known)}, and its layers of that width start anew; all other layers are taken"
        )
    kept = [categories.names[row] for row in rows]
    new = [name for row, name in enumerate(categories.names) if row not in rows]
    dropped = [name for row, name in enumerate(known.names) if row not in rows.values()]
    return f"classes kept: {_listed(kept)}; new: {_listed(new)}; dropped: {_listed(dropped)}"


def rows_of_equal_names(names: Sequence[str], known: Sequence[str]) -> dict[int, int]:
    """Row in `names` -> row of the same name in `known`; each row is used once, in order."""
    free = list(enumerate(known))
    rows = {}
    for row, name in enumerate(names):
        match = next((entry for entry in free if entry[1] == name), None)
        if match is not None:
            free.remove(match)
            rows[row] = match[0]
    return rows


def _tensors(module: nn.Module) -> list[Tensor]:
    """The module's own parameters and buffers, not those of its children."""
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _listed(names: Sequence[str]) -> str:
    if len(names) > MAX_NAMES:
        return f"{', '.join(names[:MAX_NAMES])}, … ({len(names)})"
    return ", ".join(names) or "none"
