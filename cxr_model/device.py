"""Which device and precision a run computes with."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cxr_model.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def resolve_device(name: str) -> torch.device:
    """``auto`` takes CUDA where there is one; a device that is not there is a ``ConfigError``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"training.device={name!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"training.device={name!r}: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"training.device={name!r}: this machine has {torch.cuda.device_count()} CUDA "
            "devices; use training.device=auto"
        )
    return device


def check_devices(name: str, num_devices: int) -> None:
    """Raise ``ConfigError`` for ``training.num_devices`` that this machine does not have.

    A CPU takes any number of processes.
    """
    device = resolve_device(name)
    if num_devices == 1 or device.type == "cpu":
        return
    if device.index is not None:
        raise ConfigError(
            f"training.device={name!r}: is one device, training.num_devices={num_devices}; use cuda"
        )
    if num_devices > torch.cuda.device_count():
        raise ConfigError(
            f"training.num_devices={num_devices}: this machine has "
            f"{torch.cuda.device_count()} CUDA devices; use at most as many"
        )


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """``auto`` gives bfloat16 only where the device multiplies it natively: elsewhere it slows."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else torch.float32


def keep_freed_memory() -> None:
    """Have glibc keep large blocks that are freed, for the life of the process.

    By its default each goes back to the kernel, which zeroes the pages before it hands them
    out again: a fifth of a training step on a CPU. Other C libraries are left alone.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Within the block torch raises where it has no algorithm that repeats itself exactly."""
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its start
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
