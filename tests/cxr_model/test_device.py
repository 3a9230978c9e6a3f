import os

import pytest
import torch

from cxr_model.device import (
    check_devices,
    deterministic_algorithms,
    device_name,
    resolve_device,
    resolve_precision,
)
from cxr_model.errors import ConfigError


def test_auto_takes_cuda_where_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["gpu", "mps", "meta", "cuda:x", ""])
def test_a_device_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="use auto, cpu, cuda or cuda:N"):
        resolve_device(name)


def test_a_cuda_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"this machine has \d+ CUDA devices"):
        resolve_device("cuda:99")


def test_more_devices_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_devices("cpu", 64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices("auto", 2)
    with pytest.raises(ConfigError, match=r"num_devices=3: this machine has 2 CUDA devices"):
        check_devices("auto", 3)
    with pytest.raises(ConfigError, match="is one device"):
        check_devices("cuda:1", 2)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"neon": True, "bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": False}, torch.float32),
    ],
)
def test_bfloat16_is_for_processors_that_multiply_it(
    capabilities: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", torch.device("cpu")) is expected
    assert resolve_precision("bfloat16", torch.device("cpu")) is torch.bfloat16
    assert resolve_precision("float32", torch.device("cpu")) is torch.float32


def test_the_name_tells_what_computes() -> None:
    assert device_name(torch.device("cpu")).startswith("CPU, ")


def test_algorithms_that_do_not_repeat_themselves_are_refused_within_the_block_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # put back afterwards
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with deterministic_algorithms(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
def test_cuda_has_a_name_and_native_bfloat16() -> None:
    device = resolve_device("cuda")
    assert device_name(device)
    assert resolve_precision("auto", device) is torch.bfloat16
