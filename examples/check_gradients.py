"""Check the gradient of every layer against differences, on both backends: the same as `minicnn check-gradients`."""

import sys

from minicnn.commands.check_gradients import main

if __name__ == "__main__":
    sys.exit(main())
