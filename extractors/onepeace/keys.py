"""Names of the public ONE-PEACE checkpoints' tensors, translated into those of our nets.

``one-peace.pt`` holds all modalities under ``encoder_wrapper.*`` (fairseq),
``onepeace_video_k400.pth`` the video branch under ``backbone.*`` (mmcv). ``one-peace-vision.pkl``
is taken with either naming, with or without the first prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

Branch = Literal["video", "image", "audio"]

_ADAPTER = (
    (r"rel_pos_table_list\.(\d+)\.weight", r"adapter.positions.tables.\1"),
    (r"rel_pos_table\.weight", r"adapter.positions.tables.0"),
    (r"embed_images\.([036])\.(.+)", r"adapter.patches.\1.\2"),
    (r"embed_images\.([14])\.layer_norm\.(.+)", r"adapter.patches.\1.\2"),
    (r"embed_audios\.0\.conv_layers\.(\d)\.0\.(.+)", r"adapter.convs.\1.conv.\2"),
    (r"embed_audios\.0\.conv_layers\.(\d)\.2\.1\.(.+)", r"adapter.convs.\1.norm.\2"),
    (r"embed_audios\.2\.(.+)", r"adapter.norm.\1"),
    (r"embed_audios\.3\.(.+)", r"adapter.project.\1"),
    (r"(cls_embedding|cls_pos_embed|pos_embed)", r"adapter.\1"),
    (r"temporal_embedding", "temporal_embedding"),
)
_POSITION_CONV = re.compile(r"embed_positions\.([1-5])\.0\.(.+)")
_PREFIXES = ("encoder_wrapper.", "backbone.", "module.")
_ENCODERS = ("fusion_model.", "encoder.")


def translate(branch: Branch) -> Callable[[str], str | None]:
    """The translation for one branch.

    Returns:
        A function from a public key to ours; None for keys that the branch does not use: other
        modalities, what only pre-training needed, and tables that can be computed.
    """
    modality = "audio" if branch == "audio" else "image"

    def one(key: str) -> str | None:
        key = _without(key, _PREFIXES)
        if key.startswith(f"{modality}_proj."):
            return None if branch == "video" else f"proj.{key.removeprefix(f'{modality}_proj.')}"
        if key.startswith(f"{modality}_adapter."):
            return _adapter_key(key.removeprefix(f"{modality}_adapter."))
        inner = _without(key, _ENCODERS)
        if inner == key:
            return None
        if inner.startswith(f"{modality}_layer_norm."):
            return f"norm.{inner.removeprefix(f'{modality}_layer_norm.')}"
        return _layer_key(inner, modality)

    return one


def _without(key: str, prefixes: tuple[str, ...]) -> str:
    prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), "")
    return key.removeprefix(prefix)


def _adapter_key(key: str) -> str | None:
    position = _POSITION_CONV.fullmatch(key)
    if position:  # theirs count from 1
        return f"adapter.position_convs.{int(position[1]) - 1}.{position[2]}"
    for pattern, ours in _ADAPTER:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(ours)
    return None


def _layer_key(key: str, modality: str) -> str | None:
    match = re.fullmatch(r"layers\.(\d+)\.(.+)", key)
    if match is None:
        return None
    index, rest = match.groups()
    owner = re.match(r"(text|image|audio)_ffn\.", rest)
    if owner is None:
        return f"layers.{index}.{rest}"
    if owner[1] != modality:
        return None
    return f"layers.{index}.ffn.{rest[owner.end() :]}"
