"""Write the report from the result files: the same as `itera report`."""

import sys

from itera_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
