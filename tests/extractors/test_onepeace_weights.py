"""ONE-PEACE's checkpoints are converted once, loaded as asked, and refused with the reason."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from extractors.audio.onepeace import load_onepeace_audio
from extractors.onepeace import weights as onepeace_weights
from extractors.onepeace.layers import run_layers
from extractors.onepeace.spec import BASE_WEIGHTS, K400_WEIGHTS, VISION_WEIGHTS
from extractors.onepeace.weights import LOCK_FILE
from extractors.registry import load_backbone
from extractors.storage.safetensors_io import read_header
from extractors.vision.onepeace import OnePeaceImage, load_onepeace_image, load_onepeace_video
from fixtures.onepeace import (
    STREAM_SIZE,
    TEMPORAL,
    TINY,
    base_state,
    tiny_loader,
    video_state,
    vision_state,
    write_base,
    write_video,
    write_vision,
)
from pipeline.core.errors import EnvironmentFault

CPU = torch.device("cpu")


def load_video(folder: Path, **options: Any) -> Any:
    return load_onepeace_video(CPU, size=STREAM_SIZE, weights_dir=folder, threads=1, **options)


def load_audio(folder: Path, **options: Any) -> Any:
    return load_onepeace_audio(CPU, size=TINY, weights_dir=folder, threads=1, **options)


def sound() -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((2, 16_000)).astype(np.float32)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {LOCK_FILE}


@pytest.mark.parametrize("name", ["onepeace", "onepeace-fp16", "onepeace-bf16"])
def test_missing_weights_say_what_is_missing_and_what_to_do(name: str, tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(EnvironmentFault) as caught:
            load_backbone(name, device="cpu", weights_dir=folder)
        message = str(caught.value)
        for part in (K400_WEIGHTS.file, "about 6,628,527,048 bytes", "no published hash"):
            assert part in message
        for part in ("Apache-2.0", K400_WEIGHTS.source, "--weights-dir"):
            assert part in message
        assert caught.value.exit_code == 3


def test_each_branch_is_converted_once(tmp_path: Path) -> None:
    write_base(tmp_path)
    write_video(tmp_path)
    first = tiny_loader()(device="cpu", threads=1, weights_dir=tmp_path)
    converted = ["onepeace-audio.safetensors", "onepeace-video.safetensors"]
    assert names(tmp_path) == {BASE_WEIGHTS.file, K400_WEIGHTS.file, *converted}
    inodes = [(tmp_path / name).stat().st_ino for name in converted]
    again = tiny_loader()(device="cpu", threads=1, weights_dir=tmp_path)
    assert [(tmp_path / name).stat().st_ino for name in converted] == inodes
    np.testing.assert_array_equal(
        first.audio.embed(sound()).embeddings, again.audio.embed(sound()).embeddings
    )


def test_a_branch_holds_its_own_tensors_and_no_others(tmp_path: Path) -> None:
    write_base(tmp_path)
    load_audio(tmp_path)
    file = read_header(tmp_path / "onepeace-audio.safetensors")
    assert set(file.fields) == set(load_audio(tmp_path)._net.state_dict())
    whole = sum(value.numel() for value in base_state().values())
    assert file.size < 0.6 * 4 * whole


def test_the_converted_file_alone_is_enough(tmp_path: Path) -> None:
    write_base(tmp_path)
    before = load_audio(tmp_path).embed(sound()).embeddings
    (tmp_path / BASE_WEIGHTS.file).unlink()
    np.testing.assert_array_equal(load_audio(tmp_path).embed(sound()).embeddings, before)


def test_another_checkpoint_of_the_same_size_is_converted_again(tmp_path: Path) -> None:
    size = write_base(tmp_path).stat().st_size
    before = load_audio(tmp_path).embed(sound()).embeddings
    state = base_state()
    state["audio_proj.bias"] += 1
    assert write_base(tmp_path, state).stat().st_size == size
    after = load_audio(tmp_path).embed(sound()).embeddings
    assert np.abs(after - before).max() > 1e-3


def without_time(path: Path) -> None:
    """Leave a conversion as earlier programs wrote it, which compared name and size only."""
    content = path.read_bytes()
    assert content.count(b'"source_modified_ns"') == 1
    path.write_bytes(content.replace(b'"source_modified_ns"', b'"source_modified_xx"'))


def test_a_conversion_that_may_be_of_another_checkpoint_is_made_again(tmp_path: Path) -> None:
    checkpoint = write_base(tmp_path)
    expected = load_audio(tmp_path).embed(sound()).embeddings
    converted = tmp_path / "onepeace-audio.safetensors"
    without_time(converted)
    load_audio(tmp_path)
    assert "source_modified_ns" in read_header(converted).metadata
    without_time(converted)
    checkpoint.unlink()  # then there is nothing that it could be stale against
    np.testing.assert_array_equal(load_audio(tmp_path).embed(sound()).embeddings, expected)


# --- the file of the image branch alone -----------------------------------------------------------


def load_image(folder: Path, weights: Any = BASE_WEIGHTS) -> OnePeaceImage:
    return load_onepeace_image(CPU, weights=weights, size=TINY, weights_dir=folder)


@pytest.mark.parametrize("layout", ["archive", "older", "bare", "arrays"])
def test_the_file_of_the_image_branch_gives_its_class_token_without_a_head(
    layout: str, tmp_path: Path
) -> None:
    """As the publishers' script makes it of the whole checkpoint, in whatever layout it comes."""
    write_base(tmp_path)
    path, state = write_vision(tmp_path), vision_state()
    if layout == "arrays":
        arrays = {name: value.numpy() for name, value in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays}, protocol=2))
    elif layout != "bare":
        torch.save({"model": state}, path, _use_new_zipfile_serialization=layout == "archive")
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = load_image(tmp_path)
    biases = whole.adapter.biases(layers=TINY.layers)
    seen = run_layers(whole.layers, whole.adapter(pictures), biases)[:, 0]
    found = load_image(tmp_path, VISION_WEIGHTS)(pictures)
    torch.testing.assert_close(found, F.layer_norm(seen, (TINY.dim,), eps=1e-5), rtol=0, atol=0)
    assert (found - whole(pictures)).abs().max() > 0.1


def test_a_head_in_the_file_of_the_image_branch_is_left_where_it_is(tmp_path: Path) -> None:
    write_vision(tmp_path)
    expected = load_image(tmp_path, VISION_WEIGHTS).state_dict()
    write_vision(tmp_path, {n: v for n, v in base_state().items() if "text" not in n})
    found = load_image(tmp_path, VISION_WEIGHTS).state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_both_image_branches_lie_beside_each_other_converted_once(tmp_path: Path) -> None:
    write_base(tmp_path)
    write_vision(tmp_path)
    for weights in (BASE_WEIGHTS, VISION_WEIGHTS):
        load_image(tmp_path, weights)
    converted = ["onepeace-image.safetensors", "onepeace-vision.safetensors"]
    inodes = [(tmp_path / name).stat().st_ino for name in converted]
    for weights in (BASE_WEIGHTS, VISION_WEIGHTS):
        load_image(tmp_path, weights)
        (tmp_path / weights.file).unlink()
        load_image(tmp_path, weights)
    assert [(tmp_path / name).stat().st_ino for name in converted] == inodes
    assert names(tmp_path) == set(converted)


def test_a_conversion_of_another_checkpoint_is_not_taken_for_one_of_this(tmp_path: Path) -> None:
    write_vision(tmp_path)
    load_image(tmp_path, VISION_WEIGHTS)
    (tmp_path / "onepeace-vision.safetensors").rename(tmp_path / "onepeace-image.safetensors")
    with pytest.raises(EnvironmentFault, match=r"one-peace\.pt .* not on this machine"):
        load_image(tmp_path)


def test_prefixes_of_other_frameworks_do_not_matter(tmp_path: Path) -> None:
    write_video(tmp_path)
    frames = np.zeros((1, 16, 64, 64, 3), np.uint8)
    expected = load_video(tmp_path).embed(frames).embeddings
    bare = {name.removeprefix("backbone."): value for name, value in video_state().items()}
    write_video(tmp_path, bare)
    np.testing.assert_array_equal(load_video(tmp_path).embed(frames).embeddings, expected)


@pytest.mark.parametrize(
    ("precision", "least"), [("float32", 1.0), ("float16", 0.9999), ("bfloat16", 0.998)]
)
def test_precisions_are_loaded_as_asked_and_stay_near(
    precision: Any, least: float, tmp_path: Path
) -> None:
    write_base(tmp_path)
    write_video(tmp_path)
    full = tiny_loader()(device="cpu", threads=1, weights_dir=tmp_path)
    other = tiny_loader(precision)(device="cpu", threads=1, weights_dir=tmp_path)
    for encoder in (other.vision, other.audio):
        types = {value.dtype for value in encoder._net.state_dict().values()}  # type: ignore[attr-defined]
        assert types == {getattr(torch, precision)}
    frames = np.random.default_rng(0).integers(0, 256, (1, 16, 64, 64, 3), np.uint8)
    for found, exact in (
        (other.vision.embed(frames), full.vision.embed(frames)),
        (other.audio.embed(sound()), full.audio.embed(sound())),
    ):
        assert found.embeddings.dtype == np.float32
        for a, b in zip(found.embeddings, exact.embeddings, strict=True):
            assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= least - 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_checkpoints_of_other_types_are_taken(dtype: torch.dtype, tmp_path: Path) -> None:
    rounded = {name: value.to(dtype) for name, value in base_state().items()}
    write_base(tmp_path, {name: value.float() for name, value in rounded.items()})
    expected = load_audio(tmp_path).embed(sound()).embeddings
    write_base(tmp_path, rounded)
    np.testing.assert_array_equal(load_audio(tmp_path).embed(sound()).embeddings, expected)


# --- refused --------------------------------------------------------------------------------------


def without(state: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {name: v for name, v in state.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: without(s, ".T_Adapter."), r"12 tensors are missing: layers\.0\.T_Adapter"),
        (lambda s: without(s, "cls_embedding"), r"1 tensors are missing: adapter\.cls_embedding"),
        (lambda s: without(s, "layers.2."), "are missing"),
        (
            lambda s: {**s, "backbone.encoder.layers.3.gamma_1": torch.ones(64)},
            r"1 tensors are unknown: layers\.3\.gamma_1",
        ),
        (
            lambda s: {**s, TEMPORAL: torch.zeros(1, 8, 64)},
            "temporal_embedding is 1x8x64 instead of 1x16x64",
        ),
        (
            lambda s: {**s, "backbone.encoder.image_layer_norm.weight": torch.ones(32)},
            r"norm\.weight is 32 instead of 64",
        ),
        (
            lambda s: {**s, TEMPORAL: torch.zeros(1, 16, 64, dtype=torch.int64)},
            "one of its weights is of type int64",
        ),
        (lambda s: {"other": torch.zeros(1)}, r"tensors are missing: .* \.\.\."),
    ],
    ids=["no-adapter", "no-cls", "short", "long", "frames", "width", "integers", "other-net"],
)
def test_the_weights_of_another_net_are_refused_with_the_reason(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], said: str, tmp_path: Path
) -> None:
    write_video(tmp_path, change(video_state()))
    with pytest.raises(EnvironmentFault, match=said) as caught:
        load_video(tmp_path)
    assert K400_WEIGHTS.source in str(caught.value)
    assert names(tmp_path) == {K400_WEIGHTS.file}


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_a_hostile_checkpoint_is_refused_and_nothing_happens(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"model": base_state(), "cfg": Evil(mark)}, tmp_path / BASE_WEIGHTS.file)
    with pytest.raises(EnvironmentFault, match=r"one-peace\.pt is refused: .*posix\.system"):
        load_audio(tmp_path)
    assert names(tmp_path) == {BASE_WEIGHTS.file}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_checkpoint_that_is_cut_off_is_refused(share: float, tmp_path: Path) -> None:
    path = write_base(tmp_path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(EnvironmentFault, match=r"one-peace\.pt is refused"):
        load_audio(tmp_path)
    assert names(tmp_path) == {BASE_WEIGHTS.file}


def test_damage_found_while_copying_leaves_the_former_conversion(tmp_path: Path) -> None:
    path = write_base(tmp_path)
    load_audio(tmp_path)
    converted = tmp_path / "onepeace-audio.safetensors"
    before = converted.read_bytes()
    state = {**base_state(), "another": torch.zeros(1)}
    write_base(tmp_path, state)
    data = bytearray(path.read_bytes())
    data[data.index(state["audio_proj.weight"].numpy().tobytes()) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(EnvironmentFault, match="checksum"):
        load_audio(tmp_path)
    assert converted.read_bytes() == before
    assert names(tmp_path) == {BASE_WEIGHTS.file, converted.name}


def test_a_damaged_conversion_is_made_again_or_refused(tmp_path: Path) -> None:
    path = write_base(tmp_path)
    expected = load_audio(tmp_path).embed(sound()).embeddings
    converted = tmp_path / "onepeace-audio.safetensors"
    converted.write_bytes(converted.read_bytes()[:-100])
    np.testing.assert_array_equal(load_audio(tmp_path).embed(sound()).embeddings, expected)
    converted.write_bytes(converted.read_bytes()[:-100])
    path.unlink()
    with pytest.raises(EnvironmentFault, match=r"audio\.safetensors is refused: it has .* bytes"):
        load_audio(tmp_path)


def test_a_branch_in_the_cache_is_enough_without_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path))
    cache = tmp_path / "weights"
    cache.mkdir()
    path = write_base(cache)
    expected = load_onepeace_audio(CPU, size=TINY, threads=1).embed(sound()).embeddings
    path.unlink()
    again = load_onepeace_audio(CPU, size=TINY, threads=1).embed(sound()).embeddings
    np.testing.assert_array_equal(again, expected)


def test_a_conversion_of_another_net_is_refused(tmp_path: Path) -> None:
    write_base(tmp_path)
    load_audio(tmp_path)
    (tmp_path / BASE_WEIGHTS.file).unlink()
    with pytest.raises(EnvironmentFault, match="holds the weights of another net"):
        load_onepeace_audio(CPU, weights_dir=tmp_path)


def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: Any, sources: Any, metadata: Any) -> None:
        handle.write(b"the beginning")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onepeace_weights, "write_tensors", full)
    write_base(tmp_path)
    with pytest.raises(EnvironmentFault, match=r"No space left .* with room for a copy"):
        load_audio(tmp_path)
    assert names(tmp_path) == {BASE_WEIGHTS.file}


def _load_and_hear(folder: Path, answers: Any) -> None:
    torch.set_num_threads(1)
    inode = load_audio(folder) and (folder / "onepeace-audio.safetensors").stat().st_ino
    answers.put(inode)


def test_two_processes_convert_once(tmp_path: Path) -> None:
    write_base(tmp_path)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    workers = [context.Process(target=_load_and_hear, args=(tmp_path, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    inodes = {answers.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(inodes) == 1
    assert names(tmp_path) == {BASE_WEIGHTS.file, "onepeace-audio.safetensors"}
