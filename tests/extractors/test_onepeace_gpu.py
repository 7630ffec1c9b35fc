"""A narrow ONE-PEACE and RAFT give on a CUDA device what they give on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.onepeace.spec import Precision
from extractors.vision.raft import Raft
from fixtures.golden_inputs import clip_uint8
from fixtures.onepeace import tiny_loader, write_base, write_video

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize(
    ("precision", "least"), [("float32", 1 - 1e-6), ("float16", 0.9999), ("bfloat16", 0.998)]
)
def test_every_precision_stays_near_float32_on_the_cpu(
    precision: Precision, least: float, tmp_path: Path
) -> None:
    write_base(tmp_path)
    write_video(tmp_path)
    on_cpu = tiny_loader()(device="cpu", threads=None, weights_dir=tmp_path)
    on_gpu = tiny_loader(precision)(device="cuda", threads=None, weights_dir=tmp_path)
    frames = clip_uint8(16, 64, 96)[None]
    sound = 0.1 * np.random.default_rng(0).standard_normal((3, 16_000)).astype(np.float32)
    for found, exact in (
        (on_gpu.vision.embed(frames), on_cpu.vision.embed(frames)),
        (on_gpu.audio.embed(sound), on_cpu.audio.embed(sound)),
    ):
        for a, b in zip(found.embeddings, exact.embeddings, strict=True):
            assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= least


def test_the_flow_of_one_step_is_the_same() -> None:
    torch.manual_seed(0)
    net = Raft(iterations=1).eval().requires_grad_(False)
    frames = torch.from_numpy(clip_uint8(2, 136, 152)).permute(0, 3, 1, 2).float()
    expected = net(frames[:1], frames[1:])
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        found = net.cuda()(frames[:1].cuda(), frames[1:].cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
