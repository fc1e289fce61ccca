"""What a user sees when something is wrong: one clear line that names the file, the field and the remedy."""

import re
from urllib.parse import unquote

DISTRIBUTION = "attention-detector"
"""Name of the package to install, which differs from that of the import."""


JOINERS = "\u200c\u200d"
"""Characters without a shape of their own that scripts and emoji need."""


def printable(text: str) -> str:
    """Return text from a file as one line to be shown: line breaks and tabs are a space; what a terminal would obey, a page
    turn around or no encoding hold (escape sequences, marks of direction, surrogates) is written as in Python: \\x1b."""
    line = re.sub(r"\s+", lambda run: run[0] if run[0].strip(" ") == "" else " ", text)
    return "".join(c if c.isprintable() or c in JOINERS else c.encode("unicode_escape").decode() for c in line)


FROM_URL = re.compile(r"\b[a-z][a-z\d+.-]+:/.*", re.I | re.S)
LOGIN = re.compile(
    r"(:/{1,2})(?:[^/?#\s]*@|[^/?#:@\s]+:(?!\d*(?:[/?#:;,)\s]|$))[^@]*@)"
)  # also with a blank, a / or a # that is not %20, %2F or %23; no port, and no punctuation after a host
PARAMETER = re.compile(r"[?&;#]([^=&;#\s]*)=([^&;#\s]*)")
SECRET = re.compile(r"token|key|secret|sig|pass|pwd|auth|cred|session|user|login|code", re.I)


def without_secrets(text: str) -> str:
    """Text whose URLs, also those that lost a slash as a path, show `***` for user, password and values of parameters such as
    token and key, also behind a blank. Punctuation after a URL stays."""
    if (found := FROM_URL.search(text)) is None:
        return text
    rest, place = LOGIN.sub(r"\1***@", found[0]), 0
    while parameter := PARAMETER.search(rest, place):
        place = parameter.start(2)  # a value may hold a parameter
        if SECRET.search(unquote(parameter[1])):
            end = place + len(parameter[2].rstrip(":.,)]}>\"'"))
            rest = f"{rest[:place]}***{rest[end:]}"
    return text[: found.start()] + rest


class DetectorError(Exception):
    """Bad input or a refused action. The command line prints its text, without secrets, as one line and exits with `exit_code`."""

    exit_code = 2

    def __str__(self) -> str:
        return printable(without_secrets(super().__str__()))


class ConfigError(DetectorError):
    """A configuration key that does not exist, or a value of the wrong type or out of range."""


class DataError(DetectorError):
    """A dataset, annotation file or image that can't be used as it is."""


class WeightsError(DetectorError):
    """A weights file or checkpoint that can't be read, or that belongs to another model or other classes."""


class WriteError(DetectorError):
    """A file or folder that can't be written; what was there before is still there."""


class ExportMismatchError(DetectorError):
    """An exported file whose outputs differ from the eager model's."""

    exit_code = 1


def missing_package(needed_by: str, error: ImportError, extra: str) -> ConfigError:
    """The error for a package of an extra that is not installed."""
    return ConfigError(f"{needed_by}: needs the package {error.name}: pip install '{DISTRIBUTION}[{extra}]'")
