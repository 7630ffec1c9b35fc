"""What runs on the CPU gives the same on a CUDA device. Run by ``make gpu-check``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from extractors.registry import load_backbone
from model.loco import LoCo

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def test_the_lite_encoders_agree_with_the_cpu() -> None:
    on_cpu, on_gpu = load_backbone("lite", device="cpu"), load_backbone("lite", device="cuda")
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (8, 160, 288, 3), dtype=np.uint8)
    windows = generator.normal(0, 0.1, (8, 16_000)).astype(np.float32)
    for ours, theirs in (
        (on_gpu.vision.embed(frames), on_cpu.vision.embed(frames)),
        (on_gpu.audio.embed(windows), on_cpu.audio.embed(windows)),
    ):
        # Other convolution algorithms sum float32 in another order.
        np.testing.assert_allclose(ours.embeddings, theirs.embeddings, rtol=1e-3, atol=1e-3)
        assert ours.scores is not None
        assert theirs.scores is not None
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-3)


def test_the_network_agrees_with_the_cpu() -> None:
    torch.manual_seed(0)
    model = LoCo(vision_dim=24, audio_dim=12, classes=5, channels=32, decoder_channels=32).eval()
    vision, audio = torch.randn(2, 24, 70), torch.randn(2, 12, 70)
    mask = torch.arange(70)[None] < torch.tensor([70, 41])[:, None]
    expected = model(vision, audio, mask, mask).logits
    found = model.cuda()(vision.cuda(), audio.cuda(), mask.cuda(), mask.cuda()).logits.cpu()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
