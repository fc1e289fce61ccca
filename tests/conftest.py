"""Shapes in signatures are checked at run time: the hook must be installed before the package is imported."""

from jaxtyping import install_import_hook

install_import_hook("detector", "shape_checker.check")
