"""The classes of a conversion: those of all sources by name, renamed and picked."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detector.config import list_hint, names_in
from detector.data.conversion.content import LabeledImage, LabeledObject, Part, Report
from detector.errors import ConfigError, DataError


def renamed(parts: Sequence[Part], class_map: Mapping[str, str]) -> list[Part]:
    """The parts with other names of classes. Raises ConfigError for a class that none of them has."""
    _require_known("class_map", list(class_map), parts)

    def image_with(image: LabeledImage) -> LabeledImage:
        objects = (LabeledObject(class_map.get(each.name, each.name), each.fields) for each in image.objects)
        return replace(image, objects=tuple(objects))

    def categories_of(part: Part) -> list[dict[str, Any]]:
        named: dict[str, dict[str, Any]] = {}
        for entry in part.categories:
            name = class_map.get(entry["name"], entry["name"])
            named.setdefault(name, {**entry, "name": name})
        return list(named.values())

    return [replace(part, images=list(map(image_with, part.images)), categories=categories_of(part)) for part in parts]


def picked(parts: Sequence[Part], option: Sequence[str] | str, report: Report) -> list[Part]:
    """The parts with the classes of --classes only, without the images that have objects of other classes alone; images without any
    object stay. Raises ConfigError for a class that no part has, DataError if nothing is left of a split."""
    _require_known("classes", option, parts)
    classes, found = names_in(option), []
    for part in parts:
        images = []
        for image in part.images:
            objects = tuple(each for each in image.objects if each.name in classes)
            report.lost["objects of other classes than --classes"] += len(image.objects) - len(objects)
            if objects or not image.objects:
                images.append(replace(image, objects=objects))
        report.lost["images with objects of other classes only"] += len(part.images) - len(images)
        if not images:
            raise DataError(
                f"{part.source}: no image of its {part.split or 'only'} split has objects of --classes; give others"
            )
        categories = [entry for entry in part.categories if entry["name"] in classes]
        found.append(replace(part, images=images, categories=categories))
    return found


def united(parts: Sequence[Part], report: Report) -> list[dict[str, Any]]:
    """The categories of all parts, each name once, by id: with the first entry's id, or a new one if another name has it."""
    entries: dict[str, dict[str, Any]] = {}
    used: set[int] = set()
    changed: set[tuple[Path, str]] = set()
    for part in parts:
        seen = set()
        for entry in part.categories:
            name = entry["name"]
            report.lost["classes of equal names, which become one"] += name in seen
            seen.add(name)
            if name not in entries:
                free = entry["id"] if entry["id"] not in used else max(used) + 1
                entries[name] = {**entry, "id": free}
                used.add(free)
            if entries[name]["id"] != entry["id"] and part.format == "coco":
                changed.add((part.source, name))
    report.lost["category ids that another dataset uses otherwise, changed"] += len(changed)
    return sorted(entries.values(), key=lambda entry: entry["id"])


def _require_known(option: str, value: Sequence[str] | str, parts: Sequence[Part]) -> None:
    known = list(dict.fromkeys(entry["name"] for part in parts for entry in part.categories))
    for name in names_in(value):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            shown = ", ".join(map(repr, known[:20])) + (", …" if len(known) > 20 else "")
            hint = f"did you mean {near[0]!r}?" if near else f"the classes are {shown}"
            raise ConfigError(f"{option}: there is no class {name!r}; {hint}{list_hint(value, known)}")
