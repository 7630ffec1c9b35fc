"""What runs on the CPU gives the same on a CUDA device. Run by ``make gpu-check``."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extractors.audio.vggish import VGGishEncoder
from extractors.device_queue import DeviceQueue
from extractors.grids import OWN_GRID
from extractors.i3d_vggish_spec import vggish_spec
from extractors.registry import load_backbone
from extractors.runner import Runner
from extractors.storage.store import FeatureStore
from extractors.vision.i3d import I3DStream
from extractors.windows import WindowGrid
from model.build import Network
from model.clasp import CLASP
from model.decoding import DecodingSettings
from model.doubt import Doubt
from model.loco import LoCo
from model.sequence import SequenceDetector
from tests.fixtures.whole_sequences import activate_sequence
from workflows.bench.backbone_nets import backbone_cases, moving_pictures, sounds
from workflows.bench.busy import BusyTask, measure_busy
from workflows.bench.data import PlantedVideos, Sizes
from workflows.bench.epoch import measure_epoch
from workflows.bench.matrix_rate import arithmetic_of_extraction, check_float32
from workflows.bench.precision import measure_precision
from workflows.bench.speed import make_test_video
from workflows.bench.train import StepPlan, bench_settings
from workflows.extraction.run import extract
from workflows.training.batch import Batch
from workflows.training.loop import train_step
from workflows.training.state import start_training

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


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Of what windows do not have in common: what they share would hide an error."""
    common = expected.mean(axis=0)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - common))


def test_float32_is_float32_in_products_and_convolutions() -> None:
    with arithmetic_of_extraction():
        assert check_float32(torch.device("cuda")) < 1e-5


def test_i3d_agrees_with_the_cpu_where_windows_share_what_they_can() -> None:
    net = backbone_cases()["i3d-rgb"].make(torch.device("cpu"))
    grid, count = WindowGrid(), 4
    frames = grid.window + (count - 1) * grid.stride
    pictures = moving_pictures(1, frames, 224, 224)[0].numpy()
    expected, found = (
        I3DStream(deepcopy(net), grid=grid, device=torch.device(name)).stretch(pictures, count)  # type: ignore[arg-type]
        for name in ("cpu", "cuda")
    )
    assert found.shape == (count, 1024)
    # Neighbouring windows have 12 of 16 frames in common, and so most of their features.
    assert relative_error(found, expected) < 1e-3


@pytest.mark.parametrize("seconds", [1.5, 20.0])
def test_vggish_agrees_with_the_cpu(seconds: float) -> None:
    net = backbone_cases()["vggish"].make(torch.device("cpu"))
    spec, count = vggish_spec(OWN_GRID), OWN_GRID.steps(seconds)
    samples = sounds(1, OWN_GRID.window_samples + count * OWN_GRID.stride_samples)[0].numpy()
    expected, found = (
        VGGishEncoder(deepcopy(net), spec, grid=OWN_GRID, device=torch.device(name)).embed_stretch(  # type: ignore[arg-type]
            samples, count
        )
        for name in ("cpu", "cuda")
    )
    assert found.embeddings.shape == (count, 128)
    assert relative_error(found.embeddings, expected.embeddings) < 1e-3


def test_the_network_agrees_with_the_cpu() -> None:
    torch.manual_seed(0)
    model = LoCo(vision_dim=24, audio_dim=12, classes=5, channels=32, decoder_channels=32).eval()
    vision, audio = torch.randn(2, 24, 70), torch.randn(2, 12, 70)
    mask = torch.arange(70)[None] < torch.tensor([70, 41])[:, None]
    expected = model(vision, audio, mask, mask).logits
    found = model.cuda()(vision.cuda(), audio.cuda(), mask.cuda(), mask.cuda()).logits.cpu()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def weak_network(**changes: Any) -> CLASP:
    torch.manual_seed(0)
    return CLASP(vision_dim=24, audio_dim=16, classes=5, channels=32, drop_path=0.0, **changes)


@pytest.mark.parametrize("propagation", ["attention", "threshold"])
def test_the_weak_network_agrees_with_the_cpu(propagation: str) -> None:
    model = weak_network(propagation=propagation).eval()
    batch = PlantedVideos(Sizes(24, 16, 5)).batch([70, 41])
    inputs = (batch.vision, batch.audio, batch.vision_mask, batch.audio_mask)
    expected = model(*inputs)
    found = model.cuda()(*(x.cuda() for x in inputs))
    for name in ("activation", "video", "agreement"):
        ours, theirs = getattr(found, name).cpu(), getattr(expected, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("switches", ["default", "all"])
def test_the_weak_network_trains(precision: str, switches: str) -> None:
    more = {"anchor_bias": "gradient", "temporal_gate": True, "gate": "channel", "rest": True,
            "pooling": "modality", "keep_repeated": False}  # fmt: skip
    model = weak_network(**(more if switches == "all" else {}))
    assert_trains(model, PlantedVideos(Sizes(24, 16, 5)).batch([70, 41, 64]), precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_labels_in_doubt_are_trained_on(precision: str) -> None:
    batch = PlantedVideos(Sizes(24, 16, 5)).batch([70, 41])
    stretch = torch.tensor([[3.0, 9.0]])
    doubts = [
        Doubt.of(torch.linspace(0.2, 0.9, len(labels)), stretch, labels[:1], targets="soft")
        for labels in batch.labels
    ]
    torch.manual_seed(0)
    model = LoCo(
        vision_dim=24, audio_dim=16, classes=5, channels=32, decoder_channels=32, drop_path=0.0,
        force_nearest=True, class_aware=False, normaliser=20.0,
    )  # fmt: skip
    assert_trains(model, replace(batch, doubts=doubts), precision)


def assert_trains(model: Network, batch: Batch, precision: str) -> None:
    """Fifteen steps on the same videos bring the loss down."""
    plan = StepPlan(videos=len(batch.labels), steps=70, precision=precision)
    settings = bench_settings(plan, lr=2e-3, warmup_epochs=0)
    device = torch.device("cuda")
    state = start_training(model.to(device).train(), settings)
    losses = [train_step(state, batch.pinned().to(device), settings)["loss"] for _ in range(15)]
    assert losses[-1] < losses[0]


def test_a_long_video_on_the_cpu_is_looked_at_on_the_device() -> None:
    settings = DecodingSettings(chunk=96, overlap=32)
    batch = PlantedVideos(Sizes(24, 16, 5)).batch([250])
    inputs = (batch.vision[0], batch.audio[0], batch.vision_mask[0], batch.audio_mask[0])
    torch.manual_seed(0)
    strong = LoCo(vision_dim=24, audio_dim=16, classes=5, channels=32, decoder_channels=32).eval()
    said: list[list[torch.Tensor]] = []
    for model in (strong, deepcopy(strong).cuda()):
        pieces: list[torch.Tensor] = []
        detector = SequenceDetector(
            model,
            settings=settings,
            watch=lambda start, prediction, kept=pieces: kept.append(prediction.logits.cpu()),  # type: ignore[misc]
        )
        detector.add(*inputs)
        found = detector.finish()
        assert (found.segments.device.type, found.segments.dtype) == ("cpu", torch.float64)
        said.append(pieces)
    torch.testing.assert_close(said[1], said[0], rtol=1e-3, atol=1e-3)
    weak = weak_network().eval()
    there = activate_sequence(weak, *inputs, settings=settings).activation
    here = activate_sequence(weak.cuda(), *inputs, settings=settings).activation
    torch.testing.assert_close(here, there, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("way", ["fp32", "bf16", "fp32 compiled", "bf16 compiled"])
def test_a_short_training_has_the_losses_of_the_cpu(way: str) -> None:
    expected = measure_precision([], iterations=8, device="cpu").curves[0].losses
    found = measure_precision([way], iterations=8, device="cuda").curves[-1].losses
    # Drop path draws other numbers on another device: the first losses are near, no more.
    assert found[0] == pytest.approx(expected[0], rel=0.02)
    assert found[-1] < found[0]


def test_an_epoch_of_unav100s_size_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    report = measure_epoch(device="cuda", iterations=10, ways=["fp32", "bf16"])
    with capsys.disabled():  # the figures are what this is for
        print("\n" + report.format_table())
    full, half = report.rows
    assert half.peak < full.peak
    assert half.loss == pytest.approx(full.loss, rel=0.05)


def test_a_batch_reaches_the_device_through_pinned_memory_unchanged() -> None:
    batch = PlantedVideos(Sizes(24, 16, 5)).batch([40, 31])
    pinned = batch.pinned()
    assert pinned.vision.is_pinned()
    there = pinned.to(torch.device("cuda"))
    for name in ("vision", "audio", "vision_mask", "audio_mask"):
        assert torch.equal(getattr(there, name).cpu(), getattr(batch, name)), name
    assert torch.equal(there.segments[1].cpu(), batch.segments[1])


def test_videos_that_share_batches_have_the_bits_that_each_has_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `extractors.joint` promises; printed is what sharing is good for."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(12):
        make_test_video(clips / f"{number:02}.mp4", seconds=4 + number / 2)
    extract([clips], tmp_path / "warm", device="cuda", limit=2)
    for at_once in (1, 4):
        report = extract([clips], tmp_path / str(at_once), device="cuda", at_once=at_once)
        assert report.exit_code == 0
        windows = sum(row.steps for row in report.rows) / report.wall_seconds
        with capsys.disabled():
            print(f"\nlite, {at_once} at once: {windows:.0f} windows/s, picture and sound")
    alone, shared = (FeatureStore.open(tmp_path / name) for name in ("1", "4"))
    assert alone.ids() == shared.ids()
    for id in alone.ids():
        one, other = alone.read(id), shared.read(id)
        for name, array in one.arrays.items():
            assert array.tobytes() == other.arrays[name].tobytes(), (id, name)


def test_an_answer_is_there_before_what_was_queued_behind_it() -> None:
    device = torch.device("cuda")
    queue = DeviceQueue(device)
    rows = torch.arange(12, dtype=torch.float32).reshape(4, 3)
    there = queue.send(queue.pin(rows))
    assert isinstance(there, torch.Tensor)
    answer = queue.answer((2 * there, there.half()))
    torch.cuda._sleep(4_000_000_000)  # cycles: seconds
    behind = torch.cuda.Event()
    behind.record()
    double, same = answer.wait()
    assert not behind.query()
    np.testing.assert_array_equal(double, 2 * rows.numpy())
    np.testing.assert_array_equal(same, rows.numpy())
    assert same.dtype == np.float32
    torch.cuda.synchronize()


def test_rows_that_are_copied_beside_a_batch_reach_their_own() -> None:
    """Memory of one copy must not be taken by the next while a batch still reads it."""
    net = torch.nn.Linear(2048, 64, bias=False).cuda().requires_grad_(False)

    def forward(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        torch.cuda._sleep(2_000_000)  # cycles: the next rows come before these are read
        return (net(rows).sum(1, keepdim=True) * 0 + rows.mean(1, keepdim=True),)

    run = Runner(
        forward,
        device=torch.device("cuda"),
        threads=1,
        cpu_chunk=4,
        device_chunk=32,
    )
    batch = np.repeat(np.arange(4096, dtype=np.float32)[:, None], 2048, axis=1)
    (means,) = run(batch)
    np.testing.assert_array_equal(means, batch[:, :1])


def test_how_busy_the_gpu_is_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    report = measure_busy(BusyTask(torch.device("cuda"), videos=6, seconds=20))
    with capsys.disabled():  # the figures are what this is for
        print("\n" + report.format_table())
    assert 0 < report.share <= 1
    # Sound and picture have batches of their own; both are counted.
    assert len(report.intervals) >= 2 * report.steps / 32
    assert report.busy <= report.wall
