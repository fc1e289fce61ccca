#!/usr/bin/env python3
"""The same as `detector train`: see --help."""

import sys

from detector.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
