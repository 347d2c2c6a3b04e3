"""What the model process and the probe are given of the environment."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from tests.support.scripted_worker import scripted_worker
from tuner.child_environment import child_environment
from tuner.engine.client import EngineClient
from tuner.engine.protocol import Load
from tuner.machine.engine_build import ask_engine
from tuner.settings import Settings

NEEDED = {
    "CUDA_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "0",
    "HSA_OVERRIDE_GFX_VERSION": "10.3.0", "GGML_VK_VISIBLE_DEVICES": "0", "VK_ICD_FILENAMES": "x",
    "GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1", "LLAMA_CPP_LIB_PATH": "", "OMP_NUM_THREADS": "2",
    "GOMP_SPINCOUNT": "1000", "OPENBLAS_NUM_THREADS": "1", "LD_LIBRARY_PATH": "/usr/lib",
    "XDG_CACHE_HOME": "/tmp/cache", "LC_ALL": "C.UTF-8", "TMPDIR": "/tmp", "KVCHAT_ANYTHING": "1",
    "SystemRoot": "C:\\Windows", "ONEAPI_DEVICE_SELECTOR": "level_zero:0", "TZ": "UTC",
}  # fmt: skip
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "s1", "OPENAI_API_KEY": "s2", "HF_TOKEN": "s3", "GITHUB_TOKEN": "s4",
    "LLAMA_API_KEY": "s5", "KVCHAT_PASSWORD": "s6", "DATABASE_URL": "s7", "SSH_AUTH_SOCK": "s8",
    "HTTPS_PROXY": "http://user:s9@proxy", "PGPASSWORD": "s10", "XDG_SESSION_TOKEN": "s11",
    "MY_OWN": "s12", "NVIDIA_API_KEY": "s13", "ROCM_PASS": "s14", "LANGCHAIN_API_KEY": "s15",
}  # fmt: skip


def test_what_is_needed_is_given_and_no_secret() -> None:
    given = child_environment({**NEEDED, **SECRETS})
    assert given == NEEDED


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_model_process_is_given_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system shows it, of the worker itself."""
    shown = {k: v for k, v in NEEDED.items() if k not in {"LLAMA_CPP_LIB_PATH", "LD_LIBRARY_PATH"}}
    for name, value in {**shown, **SECRETS}.items():
        monkeypatch.setenv(name, value)
    with EngineClient(
        tmp_path / "engine.log", command=scripted_worker(), env={"SOME_MORE": "1"}
    ) as client:
        list(client.load(Load("model.gguf", Settings(n_ctx=512), 1)))
        environment = psutil.Process(client.pid).environ()
    assert not SECRETS.keys() & environment.keys()
    assert shown.items() <= environment.items()
    assert environment["SOME_MORE"] == "1"
    assert environment["PATH"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_probe_is_given_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CUDA_VISIBLE_DEVICES": "1", **SECRETS}.items():
        monkeypatch.setenv(name, value)
    seen = tmp_path / "environ"
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nenv > {seen}\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    ask_engine()
    environment = seen.read_text()
    assert "CUDA_VISIBLE_DEVICES=1" in environment
    assert not [name for name in SECRETS if name in environment]
