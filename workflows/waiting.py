"""Wait for the first worker of a Dask cluster, which may have to be started for it."""

from __future__ import annotations

import logging
import time
from typing import Any

from pipeline.core.errors import EnvironmentFault
from workflows.dispatch import ABANDONED_S, WORKERS_S

log = logging.getLogger(__name__)


def await_worker(client: Any, *, on_demand: bool) -> None:
    """Wait for the first worker of a cluster.

    One without any is handed an empty task: an adaptive cluster starts some for it, which may
    stand in the queue of a machine room for long.

    Args:
        client: Of the cluster.
        on_demand: Whether somebody else starts the workers.

    Raises:
        EnvironmentFault: There has been none for long, or the scheduler is gone.
    """
    begun, limit = time.monotonic(), ABANDONED_S if on_demand else WORKERS_S
    warned = False
    wake = client.submit(int, pure=False)
    while True:
        try:
            client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError as error:
            if time.monotonic() - begun >= limit:
                start = "start some with: dask worker ADDRESS --nthreads 1 --memory-limit 0"
                raise EnvironmentFault(
                    f"the Dask scheduler has had no worker for {limit:g} s",
                    hint=start if on_demand else "use --scheduler serial",
                ) from error
            if not warned:
                log.warning("there has been no worker for %g s; still waiting", WORKERS_S)
            warned = True
        except OSError as error:
            raise gone() from error
        else:
            wake.release()
            return


def gone() -> EnvironmentFault:
    """What to raise where the scheduler does not answer."""
    return EnvironmentFault(
        "the Dask scheduler is gone",
        hint="start it again and run the same command: what was done is kept",
    )
