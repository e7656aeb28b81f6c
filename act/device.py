"""Which device and precision a run uses, decided in one place and refused early when they are not there."""

import os
from pathlib import Path

import torch

from act.errors import ConfigError


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: the name is no device, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{name!r} is no device; use --device cpu, cuda, cuda:1, … or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{name} was asked for, but this machine has no CUDA device; use --device cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"{name} was asked for, but the last CUDA device here is cuda:{count - 1}; use that or auto")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{name} was asked for, but only cpu and cuda are supported; use --device cpu, cuda or auto")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Precision of the forward pass: "float32", "bfloat16", or "auto".

    "auto" is bfloat16 on CUDA and on CPUs that multiply it (Intel AMX, AVX-512 BF16), where a training step takes about
    half the time, and float32 elsewhere, as where ATEN_CPU_CAPABILITY keeps PyTorch from them: other CPUs emulate
    bfloat16 slowly.
    """
    if name == "auto":
        multiplies = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        allowed = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
        fast = device.type == "cuda" or (multiplies and allowed)
        return torch.bfloat16 if fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Matrix products inside are computed in `dtype`; for float32 it changes nothing."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`, as far as the system says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's share may be smaller than the machine
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text))
    return free
