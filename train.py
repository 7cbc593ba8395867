"""`python train.py --model both --config tiny --epochs 5` is `itera train ...`."""

import sys

from itera_lite.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
