"""The quick suite on the oldest versions that pyproject.toml names, and on the newest that there are.

    python -m pip install uv
    python benchmarks/versions.py               # both; --only oldest, --only newest

Each runs in a fresh virtual environment that uv makes, with every extra but those of gigabytes, and compiles its kernels
anew. The oldest are the lowest version of each package that pyproject.toml names, on the oldest Python; the newest are
on the newest Python that the installed Numba says it runs on and that is there. An interpreter that is missing, and that uv
cannot fetch, is told in one line. The script itself needs Python 3.11.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LARGE = {"torch", "bench"}  # extras that stay away
# The tests take warnings for errors, and later ones warn of how Matplotlib 3.7 calls them.
BESIDE_OLDEST = ["pyparsing==3.2.0"]


def pythons() -> list[str]:
    """Versions of Python from the oldest that the project takes to the newest that Numba does, such as "3.10"."""
    oldest = re.search(r"3\.(\d+)", PROJECT["requires-python"])[1]
    told = metadata.metadata("numba").get_all("Classifier")
    newest = max(int(number) for number in re.findall(r"Python :: 3\.(\d+)", "\n".join(told)))
    return [f"3.{number}" for number in range(int(oldest), newest + 1)]


def named() -> set[str]:
    """The packages that pyproject.toml names, without the extras of gigabytes."""
    extras = PROJECT["optional-dependencies"]
    lists = [PROJECT["dependencies"], *(extras[name] for name in extras.keys() - LARGE)]
    return {re.match(r"[\w.-]+", text)[0].lower() for texts in lists for text in texts}


def uv(*arguments: str | Path) -> str:
    """What uv prints; RuntimeError, with what it says, where it fails."""
    done = subprocess.run([sys.executable, "-m", "uv", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


def environment(folder: Path, python: str) -> Path | None:
    """The interpreter of a new environment; None, with one line that says so, where there is no such Python."""
    try:
        uv("venv", "--quiet", "--python", python, folder)
    except RuntimeError as error:
        print(f"Python {python}: no interpreter ({str(error).splitlines()[0]})", flush=True)
        return None
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def tried(python: Path, *install: str) -> bool:
    """Install the project and run the quick suite; whether it passed, with a line of versions and one of results."""
    extras = ",".join(sorted(PROJECT["optional-dependencies"].keys() - LARGE))
    uv("pip", "install", "--quiet", "--python", python, "--editable", f"{ROOT}[{extras}]", *install)
    there = json.loads(uv("pip", "list", "--format", "json", "--python", python))
    versions = ", ".join(f"{one['name']} {one['version']}" for one in there if one["name"] in named())
    number = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{number}, {versions}", flush=True)
    fresh = os.environ | {"XDG_CACHE_HOME": str(python.parents[1] / "cache")}
    command = [python, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, env=fresh, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    print("\n".join([*failed, *lines[-1:]]), flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="The quick suite on the oldest and on the newest versions.")
    parser.add_argument("--only", choices=("oldest", "newest"))
    options = parser.parse_args()
    known, passed = pythons(), []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if options.only != "newest":
            python = environment(Path(folder, "oldest"), known[0])
            passed.append(bool(python) and tried(python, "--resolution", "lowest-direct", *BESIDE_OLDEST))
        if options.only != "oldest":
            found = (environment(Path(folder, "newest"), version) for version in reversed(known))
            python = next(filter(None, found), None)
            passed.append(bool(python) and tried(python))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
