"""The data as files: `python -m minicnn.data export-csv DIR` writes Kaggle's CSVs from any source.

`make-sample DIR` draws the bundled sample from the full data again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from minicnn.data.csv_files import save_csv
from minicnn.data.dataset import Dataset
from minicnn.data.make_sample import make_sample
from minicnn.data.sources import TEST_CSV, TRAIN_CSV, load_fashion_mnist
from minicnn.errors import DataError
from minicnn.files import make_folder
from minicnn.say import say, warn


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code, 1 with one line on stderr where it failed."""
    parser = argparse.ArgumentParser(prog="minicnn data", description="Fashion-MNIST as files.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("export-csv", f"write {TRAIN_CSV} and {TEST_CSV} as Kaggle has them"),
        ("make-sample", "draw the bundled sample from the full data, as four gzipped IDX files"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("folder", type=Path, metavar="DIR", help="where to write; made if it is not there")
        command.add_argument("--source", default="auto", help="auto, sample or a folder (default: auto)")
    options = parser.parse_args(arguments)
    try:
        dataset = load_fashion_mnist(options.source)
        make_folder(options.folder)
        (export_csv if options.command == "export-csv" else make_sample)(dataset, options.folder)
    except (DataError, OSError) as error:
        warn(f"error: {error}")
        return 1
    say(f"written to {options.folder}")
    return 0


def export_csv(dataset: Dataset, folder: Path) -> None:
    """Write Kaggle's two CSV files of whatever source is there."""
    save_csv(folder / TRAIN_CSV, dataset.train_images, dataset.train_labels, verbose=True)
    save_csv(folder / TEST_CSV, dataset.test_images, dataset.test_labels, verbose=True)


if __name__ == "__main__":
    sys.exit(main())
