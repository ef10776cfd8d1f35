"""The command line that all comparisons have in common."""

import argparse
import pathlib

from .places import QUICK, RESULTS


def parser(name, quick, seconds=int):
    """A parser for `benches/<name>`. `quick` says how long a run with `--quick` takes. `seconds` is the type of
    `--seconds`."""
    options = argparse.ArgumentParser(prog=f"benches/{name}")
    options.add_argument("--quick", action="store_true", help=quick)
    options.add_argument("--rounds", type=int)
    options.add_argument("--seconds", type=seconds, help="how long a window is")
    options.add_argument("--output", type=pathlib.Path)
    return options


def read(options, quick, whole):
    """Reads the command line. `quick` and `whole` are the rounds and the seconds of a run with and without `--quick`."""
    arguments = options.parse_args()
    rounds, seconds = quick if arguments.quick else whole
    arguments.rounds = rounds if arguments.rounds is None else arguments.rounds
    arguments.seconds = arguments.seconds or seconds
    arguments.output = arguments.output or (QUICK if arguments.quick else RESULTS)
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments
