"""Shapes in signatures are checked at run time: the hook must be installed before the package is imported.

One thread: the tests' networks are too small to gain from more, and threads of two processes would hinder each other.
"""

import os

from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
install_import_hook("detector", "shape_checker.check")
