"""The paths of programs and results."""

import os

from .machine import TOP

TARGET = TOP / os.environ.get("SIDEGATE_BENCH_TARGET", "target")
PROGRAM = TARGET / "release/sidegate"
DRIVE = TARGET / "release/examples/drive"
RESULTS = TOP / "benches/results"
QUICK = TARGET / "bench/quick"
