"""`python -m minicnn.learn.museum` is a tour of the museum; with an exhibit's name, it shows that one."""

from __future__ import annotations

import argparse
import sys

from minicnn.learn.museum import CATALOGUE, accuracies, exhibit, title, told
from minicnn.say import say


def main(arguments: list[str] | None = None) -> int:
    """Prints the tour, or one exhibit."""
    parser = argparse.ArgumentParser(prog="python -m minicnn.learn.museum", description="A museum of real bugs.")
    parser.add_argument("exhibit", nargs="?", choices=CATALOGUE, metavar="EXHIBIT", help="the one to see")
    options = parser.parse_args(arguments)
    measured = accuracies()
    if options.exhibit:
        say((exhibit(options.exhibit).__doc__ or "").strip())
        say(f"\nFound in: {exhibit(options.exhibit).SOURCE}")
        say(f"Accuracy with the bug: {told(measured[options.exhibit]['with'])}")
        say(f"Accuracy without it:   {told(measured[options.exhibit]['without'])}")
        say(f"The code: {exhibit(options.exhibit).__file__}")
        return 0
    say(f"{'exhibit':<24}{'with':>10}{'without':>9}  what is wrong")
    for name in CATALOGUE:
        result = measured[name]
        say(f"{name:<24}{told(result['with']):>10}{told(result['without']):>9}  {title(name)}")
    say("Accuracy on the sample's 1,000 test images with the bug and without it: the mean over the seeds.")
    say("See one, where it was found and what catches it: python -m minicnn.learn.museum EXHIBIT")
    return 0


if __name__ == "__main__":
    sys.exit(main())
