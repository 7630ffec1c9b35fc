"""A cluster that starts workers when tasks wait and ends them when none do; run as a script.

Prints its address; with every line on standard input, the number of workers; ends with the input.
"""

from __future__ import annotations

import sys


def main(maximum: int) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=0, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        cluster.adapt(
            minimum=0, maximum=maximum, interval="200ms", target_duration="100ms", wait_count=5
        )
        print(cluster.scheduler_address, flush=True)
        for _ in sys.stdin:
            print(len(cluster.scheduler_info["workers"]), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
