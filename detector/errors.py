"""What a user sees when something is wrong: one clear line that names the file, the field and the remedy."""

DISTRIBUTION = "attention-detector"
"""Name of the package to install, which differs from that of the import."""


class DetectorError(Exception):
    """Bad input or a refused action. The command line prints its text as one line and exits with `exit_code`."""

    exit_code = 2


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
