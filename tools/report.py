#!/usr/bin/env python3
"""The same as `detector report`: see --help."""

import sys

from detector.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
