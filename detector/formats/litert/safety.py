"""LiteRT files name operators: only those are let through that `detector export` writes. The metadata are in a ZIP archive
behind the network, as TensorFlow Lite's tools put associated files; programs that know nothing of it read the network alone.

Operators of other names than LiteRT's own call what a program has registered for them, and some of its own keep state from
run to run. Those listed here compute; none reads or writes files.
"""

import io
import zipfile
from pathlib import Path

from detector.errors import WeightsError
from detector.formats.flatbuffer import FlatbufferError, Table
from detector.weights.published.archive import ZIP_FAILURES

METADATA = "detector.json"
"""The file in the archive."""
OPERATORS = {
    0: "ADD",
    1: "AVERAGE_POOL_2D",
    2: "CONCATENATION",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    9: "FULLY_CONNECTED",
    14: "LOGISTIC",
    17: "MAX_POOL_2D",
    18: "MUL",
    22: "RESHAPE",
    25: "SOFTMAX",
    34: "PAD",
    36: "GATHER",
    39: "TRANSPOSE",
    41: "SUB",
    42: "DIV",
    43: "SQUEEZE",
    45: "STRIDED_SLICE",
    47: "EXP",
    49: "SPLIT",
    53: "CAST",
    55: "MAXIMUM",
    57: "MINIMUM",
    59: "NEG",
    60: "PADV2",
    65: "SLICE",
    66: "SIN",
    70: "EXPAND_DIMS",
    71: "EQUAL",
    74: "SUM",
    75: "SQRT",
    76: "RSQRT",
    78: "POW",
    82: "REDUCE_MAX",
    83: "PACK",
    87: "LOGICAL_NOT",
    91: "REDUCE_ANY",
    94: "FILL",
    96: "RANGE",
    97: "RESIZE_NEAREST_NEIGHBOR",
    102: "SPLIT_V",
    107: "GATHER_ND",
    108: "COS",
    123: "SELECT_V2",
    126: "BATCH_MATMUL",
    130: "BROADCAST_TO",
}
"""What LiteRT has for the operators that `torch_native.safety` lists, those in the graphs of all models, by their numbers in
TensorFlow Lite's schema. A model that needs another can't be exported until it is listed, as export loads what it wrote."""
# numbers of fields there
MODEL_OPERATORS = 1
OPERATOR_SMALL_CODE, OPERATOR_CUSTOM_NAME, OPERATOR_CODE = 0, 1, 3


def add_metadata(path: Path, metadata: str) -> None:
    """Append the archive to the network."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(METADATA), metadata)


def safe_network(path: Path) -> tuple[bytes, str]:
    """The content of a LiteRT file whose loading and running only computes, and its metadata. Raises WeightsError for any
    other."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: can't be read ({error.strerror})") from error
    try:
        for operator in Table.root(content, b"TFL3").tables(MODEL_OPERATORS):
            _require_known(path, operator)
    except FlatbufferError as error:
        raise WeightsError(f"{path}: no LiteRT file, or a damaged one ({error}); export it again") from error
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            (entry,) = archive.infolist()
            if entry.filename != METADATA or entry.compress_type != zipfile.ZIP_STORED:
                raise KeyError(entry.filename)
            return content, archive.read(entry).decode()
    except (*ZIP_FAILURES, NotImplementedError, LookupError) as error:
        raise WeightsError(f"{path}: damaged, or not written by detector export; export the weights with it") from error


def _require_known(path: Path, operator: Table) -> None:
    """Raise WeightsError for an operator that is not listed."""
    # up to 127 older files have it in the one, newer in both
    code = max(operator.number(OPERATOR_SMALL_CODE, "b"), operator.number(OPERATOR_CODE, "i"))
    name = operator.text(OPERATOR_CUSTOM_NAME)
    if name or code not in OPERATORS:
        raise WeightsError(
            f"{path}: the operator {name or f'number {code}'}: detector export writes no such thing, and it could run code,"
            " so nothing of the file was run; export the weights again"
        )
