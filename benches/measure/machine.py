"""The machine: CPU time of processes and cores, and the assignment of cores."""

import os
import pathlib
import platform
import resource
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
TICK = 1 / os.sysconf("SC_CLK_TCK")

# The proxy has its own core. The app, the load generator and all other processes share the other cores.
PROXY_CORES = {0}
OTHER_CORES = set(range(1, os.cpu_count() or 1)) or PROXY_CORES
# A higher priority than other work, if allowed.
NICE = -10


def place(cores):
    """Runs in a child before it starts the program: keeps the child and its threads on `cores`.

    SCHED_BATCH on the cores of the load prevents a waking process from interrupting another one. The proxy would
    have to send this interrupt, and its time would count as the proxy's."""

    def placed():
        os.sched_setaffinity(0, cores)
        if cores == OTHER_CORES != PROXY_CORES:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        if os.geteuid() == 0:
            os.setpriority(os.PRIO_PROCESS, 0, NICE)

    return placed


class Awake:
    """Keeps the cores of the load awake, without taking CPU time from the load.

    Waking a core costs the waking process an interrupt, which takes tens of microseconds on a virtual machine. A
    fast proxy keeps the load busy and needs no such interrupts. All slower proxies would pay for the idle load."""

    def __init__(self):
        cores = OTHER_CORES - PROXY_CORES
        yielding = [sys.executable, "-c", YIELDING]
        self.running = [subprocess.Popen([*yielding, str(core)]) for core in cores]

    def pids(self):
        return [process.pid for process in self.running]

    def stop(self):
        for process in self.running:
            process.kill()
            process.wait()


YIELDING = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
os.setpriority(os.PRIO_PROCESS, 0, 19)
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1000):
        os.sched_yield()
"""


def allow_many_files():
    """Raises the limit of open files of this process and its children to the maximum."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def tree(pid):
    """A process and all its descendants."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as stat:
                    parent = int(stat.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_seconds(pids):
    """The CPU time of all threads of these processes, in nanoseconds."""
    total = 0
    for pid in pids:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as stat:
                    total += int(stat.read().split()[0])
        except OSError:
            continue
    return total / 1e9


def busy_seconds():
    """The busy time of all cores, and the time that the hypervisor took from them."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _idle, _wait, interrupts, soft, steal = map(
            int, stat.readline().split()[1:9]
        )
    return (user + nice + system + interrupts + soft) * TICK, steal * TICK


def resident_bytes(pids):
    """The memory of these processes. Shared memory counts once."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
                for line in rollup:
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total


def said(*command):
    """The first line of a program's output; empty if the program is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return ""
    lines = (done.stdout + done.stderr).split("\n")
    return next((line.strip() for line in lines if line.strip()), "")


def description():
    """A description of the machine, for readers of the results."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:
        models = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    with open("/proc/meminfo", encoding="ascii") as info:
        memory = int(info.readline().split()[1]) // 1024
    commit = said("git", "-C", str(TOP), "rev-parse", "--short=12", "HEAD")
    changed = said("git", "-C", str(TOP), "status", "--porcelain", "--untracked-files=no")
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_mib": memory,
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "commit": f"{commit}, changed" if changed else commit,
    }
