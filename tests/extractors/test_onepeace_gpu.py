"""A narrow ONE-PEACE and RAFT give on a CUDA device what they give on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from extractors.onepeace.conversions import CONVERSION, converted_name
from extractors.onepeace.spec import BASE_WEIGHTS, RELEASED_SIZE, Precision
from extractors.onepeace.weights import load_branch
from extractors.storage.safetensors_io import TensorSource, write_tensors
from extractors.vision.raft import Raft
from fixtures.golden_inputs import clip_uint8
from fixtures.onepeace import tiny_loader, write_base, write_video
from workflows.bench.backbone_nets import backbone_cases
from workflows.bench.matrix_rate import arithmetic_of_extraction

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
    frames = clip_uint8(16, 64, 64)[None]
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


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_weights_reach_the_device_without_a_second_copy(
    precision: Precision, tmp_path: Path
) -> None:
    layers, side = 32, 1024
    row = np.zeros((side, side), "<f4").tobytes()
    with (tmp_path / converted_name("audio")).open("wb") as handle:
        sources = [TensorSource(f"{n}.weight", "<f4", (side, side), [row]) for n in range(layers)]
        write_tensors(handle, sources, {"conversion": CONVERSION, "source": BASE_WEIGHTS.file})
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    net = load_branch(
        lambda size: nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(layers))),
        "audio",
        BASE_WEIGHTS,
        size=RELEASED_SIZE,
        device=device,
        precision=precision,
        weights_dir=tmp_path,
    )
    own = sum(value.nbytes for value in net.state_dict().values())
    # Beside the net at most one tensor, in the type of the file.
    assert torch.cuda.max_memory_allocated(device) - before <= own + 2 * len(row)


def test_both_nets_of_released_size_fit_into_24_gb_in_float32() -> None:
    """With the batches of extraction, where other precisions take less."""
    device, cases = torch.device("cuda"), backbone_cases()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    nets = {name: cases[name].make(device) for name in ("onepeace-video", "onepeace-audio")}
    with torch.inference_mode(), arithmetic_of_extraction():
        for name, net in nets.items():
            rows = cases[name].draw(cases[name].rows["cuda"]).to(device)
            assert net(*cases[name].prepare(rows, torch.float32)).isfinite().all()
    peak = torch.cuda.max_memory_allocated(device) - before
    assert peak < 23e9  # the device's own context takes some of the rest
