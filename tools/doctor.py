#!/usr/bin/env python3
"""The same as `detector doctor`: see --help."""

import sys

from detector.cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
