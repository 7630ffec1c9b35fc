"""Folders of models that strangers made: no code of theirs, and none that they name, is run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from extractors.registry import backbone_spec, load_backbone
from fixtures.hf import Models, edit_json
from pipeline.core.errors import EnvironmentFault

REPOSITORY = Path(__file__).parents[2]
CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nclass Evil: pass\n"
LOAD = "import sys; from extractors.registry import load_backbone; load_backbone(sys.argv[1])"


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_nobody_is_asked_whether_a_folder_s_own_code_may_run(
    hf_models: Models, tmp_path: Path, file: str
) -> None:
    """Whatever lies in standard input could be taken for the answer."""
    copy = Path(shutil.copytree(hf_models["vit"], tmp_path / "vit"))
    (copy / "evil.py").write_text(CODE)
    kinds = dict.fromkeys(("AutoConfig", "AutoModel", "AutoImageProcessor"), "evil.Evil")
    edit_json(copy / file, auto_map=kinds, image_processor_type="Evil")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, f"hf:{copy}+{hf_models['ast']}"],
        input="y\n" * 9,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        check=False,
    )
    assert "run the custom code" not in done.stdout
    assert not list(tmp_path.rglob("ran")) and not (tmp_path / "modules").exists()


@pytest.mark.parametrize("where", ["attn_implementation", "_attn_implementation"])
def test_a_configuration_names_no_code_of_the_hub(
    hf_models: Models, tmp_path: Path, where: str
) -> None:
    """With the package ``kernels``, the library would fetch and run it."""
    copy = Path(shutil.copytree(hf_models["vit"], tmp_path / "vit"))
    edit_json(copy / "config.json", **{where: "kernels-community/flash-attn3"})
    backbone = load_backbone(f"hf:{copy}+{hf_models['ast']}", device="cpu")
    assert backbone.vision.spec.dim == 32


@pytest.mark.parametrize("change", [{"hidden_size": "x"}, {"hidden_size": [1]}], ids=str)
def test_a_width_that_is_none_is_damage(
    hf_models: Models, tmp_path: Path, change: dict[str, Any]
) -> None:
    copy = Path(shutil.copytree(hf_models["vit"], tmp_path / "vit"))
    edit_json(copy / "config.json", **change)
    with pytest.raises(EnvironmentFault, match=r"config\.json is damaged"):
        backbone_spec(f"hf:{copy}+{hf_models['ast']}")
