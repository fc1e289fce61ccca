#!/usr/bin/env python3
"""The same as `detector weights`: see --help."""

import sys

from detector.cli import main

if __name__ == "__main__":
    sys.exit(main(["weights", *sys.argv[1:]]))
