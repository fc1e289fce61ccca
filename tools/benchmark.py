#!/usr/bin/env python3
"""The same as `detector benchmark`: see --help."""

import sys

from detector.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
