"""ONE-PEACE's weights are loaded straight from their file, never held twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from extractors.onepeace.conversions import CONVERSION, converted_name
from extractors.onepeace.spec import BASE_WEIGHTS
from extractors.storage.safetensors_io import TensorSource, write_tensors

LAYERS, SIDE = 24, 1024
FULL = 4 * LAYERS * SIDE**2  # bytes in float32
STATE = Path("/proc/self/smaps_rollup")

# Bytes of memory that no file stands for, at the moment when the tensors go into the net, when two
# copies would be held, and afterwards; with the nets before kept, so that no memory is used again.
CHILD = """
import json
import sys
from pathlib import Path

import torch
from torch import nn

from extractors.onepeace.spec import BASE_WEIGHTS
from extractors.onepeace.weights import load_branch

folder, layers, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("Anonymous:")]
    return 1024 * int(line.split()[1])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(side, side, bias=False) for _ in range(layers))

    def load_state_dict(self, *arguments, **options):
        seen.append(anonymous())
        return super().load_state_dict(*arguments, **options)


def load(precision):
    return load_branch(
        lambda size: Net(), "audio", BASE_WEIGHTS, size=None, device=torch.device("cpu"),
        precision=precision, weights_dir=folder,
    )


nets, grown = [], {}
for precision in ("float32", "float16", "bfloat16"):
    before, seen = anonymous(), []
    nets.append(load(precision))
    seen.append(anonymous())
    grown[precision] = [amount - before for amount in seen]
    total = sum(float(value.sum()) for value in nets[-1].state_dict().values())
    assert total == layers * side, total
print(json.dumps(grown))
"""


@pytest.mark.skipif(not STATE.exists(), reason=f"there is no {STATE} on this system")
def test_weights_are_loaded_without_a_second_copy(tmp_path: Path) -> None:
    row = (b"\0\0\x80\x3f" + bytes(4 * (SIDE - 1))) * SIDE  # a one, then zeros
    with (tmp_path / converted_name("audio")).open("wb") as handle:
        write_tensors(
            handle,
            [TensorSource(f"layers.{n}.weight", "<f4", (SIDE, SIDE), [row]) for n in range(LAYERS)],
            {"conversion": CONVERSION, "source": BASE_WEIGHTS.file},
        )
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(LAYERS), str(SIDE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)
    # float32 is the file itself; half of it is made for the other types, piece by piece.
    for precision, own in (("float32", 0), ("float16", FULL // 2), ("bfloat16", FULL // 2)):
        assert max(grown[precision]) < own + FULL // 4, grown
        assert min(grown[precision]) > own - FULL // 4, grown
