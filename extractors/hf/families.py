"""The model families of ``transformers`` that can serve as encoders, and how each is read.

What a family's configuration file leaves out has the value that ``transformers`` takes for it;
those are repeated here, so that a description needs no torch (a test compares them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from extractors.spec import Modality

Pooling = Literal["pooled", "projected", "class_token", "mean"]
TextKind = Literal["softmax", "sigmoid"]


@dataclass(frozen=True, slots=True)
class TextTower:
    """The other half of a joint space.

    Attributes:
        net: Class of ``transformers``.
        output: Attribute of its answer that lies in the space.
        kind: See `extractors.text.TextEncoder`.
        scale: Name of the tensor that holds the logarithm of the scale.
        bias: Name of the tensor that is added; "" for none.
        padded: Whether texts are padded to the full length, without a mask, and in lower case: so
            the model was trained.
        positions: Tokens at most, where the configuration says nothing.
        reserved: Positions of the configuration that no token can take.
    """

    net: str
    output: str
    kind: TextKind
    scale: str
    bias: str
    padded: bool
    positions: int
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture.

    Attributes:
        model_type: As ``config.json`` calls it.
        modality: What it encodes.
        unit: See `extractors.spec.EncoderSpec`.
        net: Class of ``transformers`` that is loaded.
        pooling: How one vector is made of its answer.
        output: Attribute of the answer that is read.
        tower: Part of the configuration that describes the net; "" for all of it.
        width: Where the configuration keeps the width: (part, or "" for the whole; key; default).
        words: What the vector is, for the description.
        normalised: Whether vectors are scaled to unit length, as the model itself compares them.
        sample_rate: Of sound, where the feature extractor's settings say nothing; 0 for pictures.
        short_sound: What becomes of a sound stream that is shorter than a window.
        unused: Tensors that a checkpoint may lack, because they do not reach the vector.
        fixed_side: Whether the net takes pictures of exactly its configured size.
        frames: Of a clip, where the configuration says nothing; 0 for what sees no clips.
        text: The text tower; None where there is none.
    """

    model_type: str
    modality: Modality
    unit: Literal["frame", "window"]
    net: str
    pooling: Pooling
    output: str
    tower: str
    width: tuple[str, str, int]
    words: str
    normalised: bool = False
    sample_rate: int = 0
    short_sound: Literal["silence", "repeat"] = "silence"
    unused: tuple[str, ...] = ()
    fixed_side: bool = False
    frames: int = 0
    text: TextTower | None = None

    def dim(self, config: Mapping[str, Any]) -> int:
        """Width of the vectors, by a model's ``config.json``."""
        part, key, default = self.width
        values = config.get(part) or {} if part else config
        return int(values.get(key) or default)

    def clip_frames(self, config: Mapping[str, Any]) -> int:
        """Frames that the net sees at once, by a model's ``config.json``; 0 for no clips."""
        return int(config.get("num_frames", self.frames)) if self.frames else 0


def _plain_picture(model_type: str, net: str, *, fixed_side: bool) -> Family:
    return Family(
        model_type,
        "vision",
        "frame",
        net,
        pooling="class_token",
        output="last_hidden_state",
        tower="",
        width=("", "hidden_size", 768),
        words="class token behind the last norm",
        unused=("pooler.dense.weight", "pooler.dense.bias", "embeddings.mask_token"),
        fixed_side=fixed_side,
    )


def _waveform(model_type: str, net: str) -> Family:
    return Family(
        model_type,
        "audio",
        "window",
        net,
        pooling="mean",
        output="last_hidden_state",
        tower="",
        width=("", "hidden_size", 768),
        words="mean over time of the last hidden state",
        sample_rate=16_000,
        unused=("masked_spec_embed",),
    )


_FAMILIES = (
    Family(
        "clip",
        "vision",
        "frame",
        "CLIPVisionModelWithProjection",
        pooling="projected",
        output="image_embeds",
        tower="vision_config",
        width=("", "projection_dim", 512),
        words="projected image embedding",
        fixed_side=True,
        text=TextTower(
            "CLIPTextModelWithProjection",
            "text_embeds",
            "softmax",
            scale="logit_scale",
            bias="",
            padded=False,
            positions=77,
        ),
    ),
    Family(
        "siglip",
        "vision",
        "frame",
        "SiglipVisionModel",
        pooling="pooled",
        output="pooler_output",
        tower="vision_config",
        width=("vision_config", "hidden_size", 768),
        words="image embedding of the attention pooling head",
        fixed_side=True,
        text=TextTower(
            "SiglipTextModel",
            "pooler_output",
            "sigmoid",
            scale="logit_scale",
            bias="logit_bias",
            padded=True,
            positions=64,
        ),
    ),
    _plain_picture("vit", "ViTModel", fixed_side=True),
    _plain_picture("dinov2", "Dinov2Model", fixed_side=False),
    _plain_picture("dinov2_with_registers", "Dinov2WithRegistersModel", fixed_side=False),
    Family(
        "videomae",
        "vision",
        "window",
        "VideoMAEModel",
        pooling="mean",
        output="last_hidden_state",
        tower="",
        width=("", "hidden_size", 768),
        words="mean over all tokens of the last hidden state",
        fixed_side=True,
        frames=16,
    ),
    Family(
        "clap",
        "audio",
        "window",
        "ClapAudioModelWithProjection",
        pooling="projected",
        output="audio_embeds",
        tower="audio_config",
        width=("", "projection_dim", 512),
        words="projected audio embedding of unit length, without the fusion of longer sounds",
        normalised=True,
        sample_rate=48_000,
        short_sound="repeat",
        text=TextTower(
            "ClapTextModelWithProjection",
            "text_embeds",
            "softmax",
            scale="logit_scale_a",
            bias="",
            padded=False,
            positions=514,
            reserved=2,
        ),
    ),
    Family(
        "audio-spectrogram-transformer",
        "audio",
        "window",
        "ASTModel",
        pooling="pooled",
        output="pooler_output",
        tower="",
        width=("", "hidden_size", 768),
        words="mean of the class and the distillation token behind the last norm",
        sample_rate=16_000,
    ),
    _waveform("wav2vec2", "Wav2Vec2Model"),
    _waveform("hubert", "HubertModel"),
    _waveform("wavlm", "WavLMModel"),
)

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _FAMILIES}


def family_names(modality: Modality) -> str:
    """Architectures that encode a modality, for messages."""
    return ", ".join(name for name, family in FAMILIES.items() if family.modality == modality)
