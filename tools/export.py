#!/usr/bin/env python3
"""The same as `detector export`: see --help."""

import sys

from detector.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
