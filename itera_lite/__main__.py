"""`python -m itera_lite` is the same as `itera`."""

import sys

from itera_lite.cli import main

sys.exit(main())
