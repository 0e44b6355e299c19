"""The command `minicnn`, also as `python -m minicnn`: `minicnn learn ...` is `python -m minicnn.learn ...`."""

from __future__ import annotations

import argparse
import sys

from minicnn.learn import commands


def main(arguments: list[str] | None = None) -> int:
    """Hand what follows the command's name on to it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="minicnn", description="Convolutional networks from scratch.")
    choices = parser.add_subparsers(dest="command", required=True)
    choices.add_parser("learn", help="write the parts of a network yourself", add_help=False)
    given = sys.argv[1:] if arguments is None else arguments
    parser.parse_args(given[:1])
    return commands.main(given[1:])


if __name__ == "__main__":
    sys.exit(main())
