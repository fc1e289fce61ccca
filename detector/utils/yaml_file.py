"""Configuration files and descriptions of datasets: YAML of which a small file stays small in memory."""

import reprlib
from pathlib import Path
from typing import Any

import yaml

from detector.errors import ConfigError

MAX_BYTES = 100_000
MAX_DEPTH = 20


class TextLoader(yaml.BaseLoader):
    """Scalars are text as they stand in the file: a class named `no` is no boolean, one named 007 no number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known = set()
        for key, _ in node.value:
            if str(key.value) in known:
                problem = f"the key {reprlib.repr(key.value)} appears twice in one mapping"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            known.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, loader: type[yaml.SafeLoader] | type[yaml.BaseLoader] = yaml.SafeLoader) -> dict[Any, Any]:
    """The mapping that a YAML file holds. Raises ConfigError naming the file.

    Aliases are refused, as a few lines of them unfold to more than any memory holds, and so are tags (!!int) and what is longer
    than `MAX_BYTES` or nested deeper than `MAX_DEPTH`.
    """
    from detector.utils.fileio import require_regular  # only now: --help loads nothing heavy

    depth = 0
    try:
        require_regular(path)
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ConfigError(f"{path}: too long for a configuration; give one of at most {MAX_BYTES:,} bytes")
        for event in yaml.parse(text):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            assert event.start_mark is not None
            line = f"{path}: line {event.start_mark.line + 1}"
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(f"{line}: the alias *{event.anchor} is not read here; write its value out")
            if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
                raise ConfigError(f"{line}: the tag {event.tag} is not read here; leave it out")
            if depth > MAX_DEPTH:
                raise ConfigError(f"{line}: nested more than {MAX_DEPTH} deep; no option is")
        content = yaml.load(text, loader)
    except OSError as error:
        raise ConfigError(f"--config: {path} can't be read ({error.strerror}); choose another file") from error
    except yaml.MarkedYAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}: this is not YAML: {error.problem}{where}; fix the file") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # no text; 2020-13-32
        raise ConfigError(f"{path}: this is not YAML but something else; write it as text, UTF-8") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: this holds no options; write lines such as 'out: runs/mine'")
    return content
