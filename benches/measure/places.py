"""Where the programs are, and where results go."""

import os

from .machine import TOP

TARGET = TOP / os.environ.get("SIDEGATE_BENCH_TARGET", "target")
PROGRAM = TARGET / "release/sidegate"
DRIVE = TARGET / "release/examples/drive"
RESULTS = TOP / "benches/results"
QUICK = TARGET / "bench/quick"
