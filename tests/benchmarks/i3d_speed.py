"""CPU time of I3D per window: a straightforward net, ours alone, ours sharing between windows.

    python tests/benchmarks/i3d_speed.py [--windows 8] [--repeats 3] [--threads 1]

All see the same windows of a synthetic clip and have the same (random) weights. Printed are CPU
seconds per window of the whole process (the least of the repeats), the ratio to the straightforward
net, and the largest relative difference of a feature vector from it. CPU time and not wall time, so
that other programs on the machine disturb it little.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))  # fixtures of the tests

from extractors.grids import OWN_GRID, UNAV_GRID
from extractors.vision.i3d import I3DStream
from extractors.vision.i3d_keys import BN_EPS_VIDEO_FEATURES, fold, recognise, to_canonical
from extractors.vision.i3d_net import I3DNet
from extractors.vision.i3d_overlap import to_net
from extractors.windows import WindowGrid
from fixtures.golden_inputs import clip_uint8
from fixtures.i3d_reference import ReferenceI3D, recipe_state

GRIDS = {"16 frames every 4": OWN_GRID, "24 frames every 8": UNAV_GRID}


def least_cpu_seconds(run: Callable[[], np.ndarray], repeats: int) -> tuple[float, np.ndarray]:
    """Process CPU time of the fastest repeat, and what came out."""
    seconds, answer = [], run()
    for _ in range(repeats):
        begin = time.process_time()
        answer = run()
        seconds.append(time.process_time() - begin)
    return min(seconds), answer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reference = ReferenceI3D(bn_eps=BN_EPS_VIDEO_FEATURES, padding="static").eval()
    state = recipe_state(reference)
    reference.load_state_dict(state)
    net = I3DNet(padding="static")
    weights = to_canonical(state, recognise(set(state)))
    net.load_state_dict(fold(weights, bn_eps=BN_EPS_VIDEO_FEATURES))
    for name, grid in GRIDS.items():
        measure(name, grid, reference, net, options.windows, options.repeats)


def measure(
    name: str, grid: WindowGrid, reference: ReferenceI3D, net: I3DNet, windows: int, repeats: int
) -> None:
    """One grid."""
    frames = clip_uint8((windows - 1) * grid.stride + grid.window, 224, 224)
    begins = range(0, windows * grid.stride, grid.stride)
    stacked = np.stack([frames[begin : begin + grid.window] for begin in begins])
    threads = torch.get_num_threads()
    stream = I3DStream(net, grid=grid, device=torch.device("cpu"), threads=threads)

    def straightforward() -> np.ndarray:
        with torch.inference_mode():
            clips = (to_net(torch.from_numpy(window)).contiguous() for window in stacked)
            rows: list[Tensor] = [reference(clip).mean(dim=(2, 3, 4)) for clip in clips]
            return torch.cat(rows).numpy()

    base, expected = least_cpu_seconds(straightforward, repeats)
    print(f"{name}, {windows} windows, {threads} threads, torch {torch.__version__}")
    print(f"  straightforward   {base / windows:.3f} CPU s per window")
    for label, run in (
        ("windows alone", lambda: stream.windows(stacked)),
        ("windows sharing", lambda: stream.stretch(frames, windows)),
    ):
        seconds, found = least_cpu_seconds(run, repeats)
        error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        print(
            f"  {label:17s} {seconds / windows:.3f} CPU s per window, {seconds / base:.2f} of it; "
            f"largest relative difference {error.max():.1e}"
        )


if __name__ == "__main__":
    main()
