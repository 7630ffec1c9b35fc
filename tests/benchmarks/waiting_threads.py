"""A training step on a busy machine, with torch's waiting threads spinning or asleep.

python tests/benchmarks/waiting_threads.py

Starts one busy process per core beside it. `import pipeline` makes the threads sleep unless the
variable is set already.
"""

from __future__ import annotations

import os
import subprocess
import sys

STEP = """
import time, torch
from model.loco import LoCo
model = LoCo(vision_dim=1280, audio_dim=1024, classes=4, channels=64, decoder_channels=64,
             unimodal_blocks=1, levels=5, max_seq_len=64)
vision, audio = torch.randn(8, 1280, 64), torch.randn(8, 1024, 64)
mask = torch.ones(8, 64, dtype=torch.bool)
segments, labels = [torch.tensor([[3.0, 20.0]])] * 8, [torch.tensor([1])] * 8
def step():
    model.loss(model(vision, audio, mask, mask), segments, labels).total.backward()
step()
started = time.perf_counter()
for _ in range(5):
    step()
print(f"{(time.perf_counter() - started) / 5:.2f} s a step")
"""


def main() -> None:
    """Print both figures."""
    busy = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(busy) for _ in range(os.cpu_count() or 1)]
    try:
        for policy in ("ACTIVE", "PASSIVE"):
            environment = {**os.environ, "OMP_WAIT_POLICY": policy}
            environment.pop("OMP_NUM_THREADS", None)
            done = subprocess.run(
                [sys.executable, "-c", STEP],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            print(f"OMP_WAIT_POLICY={policy}: {done.stdout.strip()}")
    finally:
        for other in others:
            other.kill()


if __name__ == "__main__":
    main()
