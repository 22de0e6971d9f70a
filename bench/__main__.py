"""Run every benchmark, or those named: `python -m bench pipeline excel`."""

import importlib
import os
import platform
import sys
from itertools import takewhile

NAMES = ("excel", "pipeline", "metrics", "crm", "tableau", "database")


def main() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    print(f"{cores} cores, {memory:.0f} GiB, Python {platform.python_version()}, {platform.machine()}\n", flush=True)
    named = tuple(takewhile(lambda given: not given.startswith("-"), sys.argv[1:]))  # what follows are a benchmark's own options
    for name in named or NAMES:
        print(f"## {name}\n", flush=True)
        importlib.import_module(f"bench.{name}").main()
        print(flush=True)


if __name__ == "__main__":
    main()
