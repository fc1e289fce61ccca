"""`python -m detector COMMAND`, the same as `detector COMMAND`."""

import sys

from detector.cli import main

sys.exit(main())
