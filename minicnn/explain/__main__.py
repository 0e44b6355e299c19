"""`python -m minicnn.explain` is `minicnn explain`."""

import sys

from minicnn.explain.commands import main

sys.exit(main())
