#!/usr/bin/env python3
"""The same as `detector import_weights`: see --help."""

import sys

from detector.cli import main

if __name__ == "__main__":
    sys.exit(main(["import_weights", *sys.argv[1:]]))
