"""What LoCo shares with UnAV's network gives UnAV's numbers with UnAV's weights.

A narrow UnAV network: embedding, unimodal blocks, pyramid with global attention (whose residual
follows keys and values), heads and decoding. Its dependency block has no counterpart here; the
heads are fed what came out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import Block
from model.decoding import decode
from model.embedding import Embedding, own_lengths
from model.heads import Heads, Tower, side_by_side
from model.loco import LoCo, Prediction
from model.mixing import GlobalAttention
from model.points import make_points
from model.pyramid import Pyramid

LEVELS, WIDTH, CLASSES, STEPS = 6, 16, 5, 64
CLOSE = {"rtol": 1e-5, "atol": 5e-6}  # float32 sums in another order, through ten blocks


@pytest.fixture(scope="module")
def arrays(golden: Path) -> Mapping[str, np.ndarray]:
    with np.load(golden / "extra" / "tiny_unav_parts.npz") as loaded:
        return {name: loaded[name] for name in loaded.files}


def fill(module: nn.Module, arrays: Mapping[str, np.ndarray], names: Mapping[str, str]) -> None:
    """Load reference weights by a table {our prefix: their prefix}; every one of ours must come."""
    state = {}
    for name, value in module.state_dict().items():
        ours = max((prefix for prefix in names if name.startswith(prefix)), key=len)
        theirs = torch.from_numpy(arrays["w/" + names[ours] + name.removeprefix(ours)])
        state[name] = theirs.reshape(value.shape)
    module.load_state_dict(state)


def block_names(ours: str, theirs: str) -> dict[str, str]:
    """A block attends from ``other`` (norm ln12) to ``own`` (norm ln11), the keys and values."""
    names = {
        "norm_other": "ln11",
        "norm_query": "ln12",
        "norm_feed": "ln2",
        "project_out": "attn.proj",
        "feed.0": "mlp.0",
        "feed.2": "mlp.3",
        "drop_attention": "drop_path_attn",
        "drop_feed": "drop_path_mlp",
    }
    for part in ("query", "key", "value"):
        names[f"conv_{part}"] = f"attn.{part}_conv"
        names[f"norm_conv_{part}"] = f"attn.{part}_norm"
        names[f"project_{part}"] = f"attn.{part}"
    return {f"{ours}{one}.": f"backbone.{theirs}.{two}." for one, two in names.items()}


def unimodal(arrays: Mapping[str, np.ndarray], key: str, width: int) -> nn.ModuleList:
    embedding = Embedding(width, WIDTH, max_seq_len=STEPS, positions="stretched")
    names = {f"convs.{n}.": f"backbone.embd_{key}.{n}." for n in range(2)}
    fill(
        embedding, arrays, names | {f"norms.{n}.": f"backbone.embd_norm_{key}.{n}." for n in (0, 1)}
    )
    parts = nn.ModuleList([embedding])
    for number in range(2):
        block = Block(WIDTH, 4, GlobalAttention(), residual="kv").eval()
        fill(block, arrays, block_names("", f"self_att_{key}.{number}"))
        parts.append(block)
    return parts.eval()


def pyramid(arrays: Mapping[str, np.ndarray]) -> Pyramid:
    module = Pyramid(
        WIDTH, levels=LEVELS, heads=4, window=8, fusion="global", residual="kv", drop_path=0.1
    ).eval()
    names: dict[str, str] = {}
    for ours, theirs in (("vision", "Va"), ("audio", "Av")):
        names |= block_names(f"{ours}.0.", f"ori_cross_att_{theirs}")
        for level in range(1, LEVELS):
            names |= block_names(f"{ours}.{level}.", f"cross_att_{theirs}.{level - 1}")
    fill(module, arrays, names)
    return module


def streams(arrays: Mapping[str, np.ndarray], video: int) -> list[Tensor]:
    """Each stream's features and mask at the entry of the pyramid: V, V mask, A, A mask."""
    found = []
    for name, key in (("visual", "V"), ("audio", "A")):
        x = torch.from_numpy(arrays[f"in/{video}/{name}"])[None]
        mask = torch.ones(1, 1, x.shape[-1], dtype=torch.bool)
        embedding, *blocks = unimodal(arrays, key, x.shape[1])
        x = embedding(x, mask, own_lengths(mask[:, 0]))
        for block in blocks:
            x, _ = block(x, x, mask, mask)
        found += [x, mask]
    return found


def heads(arrays: Mapping[str, np.ndarray]) -> Heads:
    module = Heads(WIDTH, CLASSES, levels=LEVELS, inputs=2 * WIDTH).eval()
    state = {name: of_heads(arrays, "w", name) for name in module.state_dict()}
    module.load_state_dict(
        {name: state[name].reshape(value.shape) for name, value in module.state_dict().items()}
    )
    return module


def of_heads(arrays: Mapping[str, np.ndarray], prefix: str, name: str) -> Tensor:
    """What the reference has under a prefix for a parameter of our `Heads`, in its own shape."""
    if name == "scale":
        scales = [float(arrays[f"{prefix}/reg_head.scale.{n}.scale"]) for n in range(LEVELS)]
        return torch.tensor(scales)
    tower, kind, *rest = name.split(".")
    head = {"classify": "cls", "regress": "reg"}[tower]
    last = {"classify": "cls_head", "regress": "offset_head"}[tower]
    key = {"convs": "head", "norms": "norm", "out": last}[kind]
    return torch.from_numpy(arrays[".".join([f"{prefix}/{head}_head", key, *rest])])


def joined(arrays: Mapping[str, np.ndarray], video: int, name: str) -> Tensor:
    """The reference's output of all levels: (1, P, channels)."""
    levels = [arrays[f"single{video}/l{level}/{name}"] for level in range(LEVELS)]
    return torch.from_numpy(np.concatenate(levels, axis=2)).transpose(1, 2)


@torch.no_grad()
def test_a_video_that_fills_the_length_has_the_references_pyramid(
    arrays: Mapping[str, np.ndarray],
) -> None:
    # Shorter ones differ by decision: in the reference, padding reaches the last valid step through
    # the norms' biases and the max-pool. With both put back, all three videos agree to 1.5e-6.
    vision, vision_mask, audio, audio_mask = streams(arrays, 0)
    found = pyramid(arrays)(vision, audio, vision_mask, audio_mask)
    for level, (v, a, _, _) in enumerate(found):
        np.testing.assert_allclose(v.numpy(), arrays[f"single0/l{level}/V"], **CLOSE)
        np.testing.assert_allclose(a.numpy(), arrays[f"single0/l{level}/A"], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("video", range(3))
def test_heads_give_the_references_logits_and_distances(
    arrays: Mapping[str, np.ndarray], video: int
) -> None:
    names = [f"single{video}/l{level}" for level in range(LEVELS)]
    levels = [
        tuple(torch.from_numpy(arrays[f"{name}/{what}"]) for what in ("dep", "mask"))
        for name in names
    ]
    row = side_by_side(levels, gap=1)
    logits, distances = heads(arrays)(row)
    lengths = row.lengths
    by_level = (x.split(lengths, 1) for x in (logits, distances.flatten(2)))
    for name, (_, mask), *ours in zip(names, levels, *by_level, strict=True):
        # In the reference padding reaches two steps into a video that does not fill the length.
        steps = int(mask.sum())
        inner = steps if steps == mask.shape[-1] else max(0, steps - 2)
        for what, found in zip(("cls", "off"), ours, strict=True):
            theirs = arrays[f"{name}/{what}"].transpose(0, 2, 1)
            np.testing.assert_allclose(found[:, :inner].numpy(), theirs[:, :inner], **CLOSE)


@pytest.mark.parametrize("video", range(3))
def test_decoding_gives_the_references_detections(
    arrays: Mapping[str, np.ndarray], video: int
) -> None:
    mask = joined(arrays, video, "mask")[..., 0]
    lengths = tuple(STEPS >> level for level in range(LEVELS))
    nothing = torch.zeros(1, WIDTH, STEPS)
    prediction = Prediction(
        points=make_points(lengths),
        lengths=lengths,
        logits=joined(arrays, video, "cls"),
        distances=joined(arrays, video, "off").unflatten(-1, (CLASSES, 2)),
        mask=mask,
        vision=nothing,
        audio=nothing,
        both=mask[:, :STEPS],
    )
    found = decode(prediction)[0]
    duration = arrays[f"in/{video}/visual"].shape[1] * 8 / 25
    seconds = ((found.segments * 8 + 12) / 25).clamp(0, duration)  # 25 fps, window 24, stride 8
    expected = {
        name: arrays[f"infer_single{video}/0/{name}"] for name in ("scores", "segments", "labels")
    }
    np.testing.assert_allclose(found.scores.numpy(), expected["scores"], rtol=1e-5)
    np.testing.assert_allclose(seconds.numpy(), expected["segments"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.labels.numpy(), expected["labels"])


def of_padded(module: Tower, x: Tensor, mask: Tensor) -> Tensor:
    """A tower as the reference computes it, where the norms' biases reach into the padding."""
    for conv, norm in zip(module.convs, module.norms, strict=True):
        x = F.relu(norm(conv(x, mask)[0]))
    return module.out(x, mask)[0].transpose(1, 2)  # type: ignore[no-any-return]


def test_the_losses_of_a_batch_and_the_gradients_of_the_heads_are_the_references(
    arrays: Mapping[str, np.ndarray], golden: Path
) -> None:
    """Three videos of 64, 41 and 23 steps from the fused features on: targets, normaliser, sums."""
    batch = np.load(golden / "extra" / "tiny_unav_losses.npz")
    module = heads(arrays)
    logits, distances, masks = [], [], []
    for level in range(LEVELS):
        x, mask = (torch.from_numpy(batch[f"batch/l{level}/{name}"]) for name in ("dep", "mask"))
        logits.append(of_padded(module.classify, x, mask))
        reach = F.relu(module.scale[level] * of_padded(module.regress, x, mask))
        distances.append(reach.unflatten(-1, (CLASSES, 2)))
        masks.append(mask[:, 0])
        theirs = batch[f"batch/l{level}/cls"].transpose(0, 2, 1)
        np.testing.assert_allclose(logits[-1].detach().numpy(), theirs, **CLOSE)
    lengths = tuple(STEPS >> level for level in range(LEVELS))
    nothing = torch.zeros(3, WIDTH, STEPS)
    prediction = Prediction(
        points=make_points(lengths),
        lengths=lengths,
        logits=torch.cat(logits, 1),
        distances=torch.cat(distances, 1),
        mask=torch.cat(masks, 1),
        vision=nothing,
        audio=nothing,
        both=masks[0],
    )
    given = [
        [torch.from_numpy(arrays[f"in/{video}/{name}"]) for video in range(3)]
        for name in ("segments", "labels")
    ]
    network = LoCo(
        vision_dim=12, audio_dim=6, classes=CLASSES, channels=WIDTH, decoder_channels=WIDTH,
        interval="diou", correspondence="none", normaliser=250.0,
    ).train()  # fmt: skip
    target, distance = network.targets(prediction.points, *given, prediction.mask)
    for video in range(3):
        there = prediction.mask[video].numpy()
        for ours, name in ((target, "gt_cls"), (distance, "gt_reg")):
            theirs = arrays[f"in/{video}/{name}"][there]
            np.testing.assert_allclose(ours[video].numpy()[there], theirs, rtol=1e-6, atol=1e-6)
    losses = network.loss(prediction, *given)
    for name, ours in (
        ("cls_loss", losses.classes),
        ("reg_loss", losses.intervals),
        ("final_loss", losses.total),
        ("normalizer_after", network.normaliser.count),
    ):
        assert ours.item() == pytest.approx(float(batch[f"loss/{name}"]), rel=1e-5), name
    losses.total.backward()
    for name, value in module.named_parameters():
        expected = of_heads(batch, "grad", name).reshape(value.shape)
        assert value.grad is not None
        torch.testing.assert_close(value.grad, expected, rtol=1e-4, atol=1e-6, msg=name)
