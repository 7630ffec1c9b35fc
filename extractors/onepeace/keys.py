"""Names of the public ONE-PEACE checkpoints' tensors, translated into those of our nets.

``one-peace.pt`` holds all modalities under ``encoder_wrapper.*`` (fairseq),
``onepeace_video_k400.pth`` the video branch under ``backbone.*`` (mmcv). ``one-peace-vision.pkl``,
which its publishers made of the former by a script of their own, holds the image branch without its
last norm and its projection, layers under ``encoder.*``. Each is taken with the prefixes of the
others and with none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

Branch = Literal["video", "image", "vision", "audio", "text"]
"""``video`` is the net of ``onepeace_video_k400.pth``, ``vision`` that of ``one-peace-vision.pkl``;
the others are parts of ``one-peace.pt``."""

_MODALITIES: Mapping[Branch, str] = {
    "video": "image",
    "image": "image",
    "vision": "image",
    "audio": "audio",
    "text": "text",
}
# What a branch has no use for, wherever a file holds it.
_LEFT_OUT: Mapping[Branch, tuple[str, ...]] = {"video": ("proj.",), "vision": ("norm.", "proj.")}
_ADAPTER = (
    (r"rel_pos_table_list\.(\d+)\.weight", r"adapter.positions.tables.\1"),
    (r"rel_pos_table\.weight", r"adapter.positions.tables.0"),
    (r"embed_images\.([036])\.(.+)", r"adapter.patches.\1.\2"),
    (r"embed_images\.([14])\.layer_norm\.(.+)", r"adapter.patches.\1.\2"),
    (r"embed_audios\.0\.conv_layers\.(\d)\.0\.(.+)", r"adapter.convs.\1.conv.\2"),
    (r"embed_audios\.0\.conv_layers\.(\d)\.2\.1\.(.+)", r"adapter.convs.\1.norm.\2"),
    (r"embed_audios\.2\.(.+)", r"adapter.norm.\1"),
    (r"embed_audios\.3\.(.+)", r"adapter.project.\1"),
    (r"embed_tokens\.weight", "adapter.tokens.weight"),
    (r"embed_positions\.weight", "adapter.places.weight"),
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
    modality, left_out = _MODALITIES[branch], _LEFT_OUT.get(branch, ())

    def one(key: str) -> str | None:
        name = _own_name(_without(key, _PREFIXES), modality)
        return None if name is None or name.startswith(left_out) else name

    return one


def _own_name(key: str, modality: str) -> str | None:
    if key.startswith(f"{modality}_proj."):
        return f"proj.{key.removeprefix(f'{modality}_proj.')}"
    if key.startswith(f"{modality}_adapter."):
        return _adapter_key(key.removeprefix(f"{modality}_adapter."))
    inner = _without(key, _ENCODERS)
    if inner == key:
        return None
    if inner.startswith(f"{modality}_layer_norm."):
        return f"norm.{inner.removeprefix(f'{modality}_layer_norm.')}"
    return _layer_key(inner, modality)


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
