"""`python -m minicnn.learn`: see commands.py."""

import sys

from minicnn.learn.commands import main

if __name__ == "__main__":
    sys.exit(main())
