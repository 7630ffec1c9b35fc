"""torchaudio loads beside a torch without CUDA."""

from __future__ import annotations

import subprocess
import sys

import pytest

from extractors.audio import torchaudio_shim
from extractors.audio.torchaudio_shim import import_torchaudio
from pipeline.core.errors import EnvironmentFault


def test_transforms_work() -> None:
    # In a process of its own: the state of sys.modules is the thing under test.
    code = (
        "from extractors.audio.torchaudio_shim import import_torchaudio\n"
        "import torch\n"
        "ta = import_torchaudio()\n"
        "assert import_torchaudio() is ta\n"
        "import torchaudio, torchaudio.compliance.kaldi\n"
        "assert torchaudio is ta\n"
        "mel = ta.transforms.MelSpectrogram(16000, n_mels=40)(torch.randn(1, 16000))\n"
        "half = ta.functional.resample(torch.randn(1, 16000), 16000, 8000)\n"
        "print(mel.shape[1], half.shape[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["40", "8000"]


def test_a_missing_torchaudio_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(torchaudio_shim.importlib, "import_module", absent)
    with pytest.raises(EnvironmentFault, match="pip install torchaudio"):
        import_torchaudio()
