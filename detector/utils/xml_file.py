"""XML from strangers: of a small file a small tree. What could unfold to more than any memory holds is refused."""

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers.expat import ExpatError, ParserCreate

from detector.errors import DataError
from detector.utils.fileio import require_regular

MAX_BYTES = 10_000_000
MAX_DEPTH = 20


def read_xml(path: Path) -> Element:
    """The root element of an XML file. Raises DataError, one line that names the file, what is wrong and the remedy.

    A document type is refused, and with it every declaration of an entity; so is what is longer than `MAX_BYTES` or nested
    deeper than `MAX_DEPTH`.
    """
    builder, parser, depth = TreeBuilder(), ParserCreate(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"line {parser.CurrentLineNumber}: nested more than {MAX_DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: Any) -> None:
        raise ValueError(f"line {parser.CurrentLineNumber}: <!DOCTYPE …> is not read here; remove it with its entities")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        require_regular(path)
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes, the limit of such a file")
        parser.Parse(content, True)
    except OSError as error:
        raise DataError(f"{path}: this file can't be read: {error.strerror}; correct its permissions") from error
    except (ExpatError, ValueError, LookupError) as error:  # the last two also of an encoding that Python lacks
        raise DataError(f"{path}: this can't be read as XML: {error}; write or export it again") from None
    return builder.close()
