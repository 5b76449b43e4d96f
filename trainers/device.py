"""What a job computes on, as it is found when it starts."""

import logging
import os
import platform
from dataclasses import dataclass
from typing import Literal

import torch

log = logging.getLogger(__name__)

# Instructions that compute in bfloat16; without them it is emulated, and float32 is faster.
BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")


@dataclass(frozen=True, slots=True)
class Device:
    """`kind` as torch calls it (cuda, cpu, …); `count` processes compute, each on one device."""

    kind: str
    name: str
    count: int
    dtype: torch.dtype

    @property
    def cpu(self) -> bool:
        return self.kind == "cpu"

    def facts(self) -> dict[str, str]:
        """For the record of a run."""
        return {
            "device": f"{self.count} × {self.name}",
            "dtype": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "host": platform.node(),
        }


def detect(dtype: Literal["auto", "bfloat16", "float32"]) -> Device:
    """The accelerator of this machine, or its CPU, and the dtype to compute in.

    Several GPUs are used by as many processes (`accelerate launch`); one process uses one.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    kind = found.type if found else "cpu"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if kind == "cuda" and processes == 1 and torch.cuda.device_count() > 1:
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
        log.info(
            "one of %d GPUs is used; `accelerate launch -m trainers.JOB` uses all",
            torch.cuda.device_count(),
        )
        os.environ["CUDA_VISIBLE_DEVICES"] = first
    if dtype == "auto":
        dtype = "bfloat16" if _has_bfloat16(kind) else "float32"
    return Device(kind, _name(kind), processes, getattr(torch, dtype))


def _has_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind == "cpu":
        has = torch.cpu.get_capabilities()
        return any(has.get(instruction, False) for instruction in BFLOAT16)
    return False


def _name(kind: str) -> str:
    if kind == "cuda":
        return torch.cuda.get_device_name()
    if kind == "cpu":
        name = torch.cpu.get_capabilities().get("cpu_name", platform.machine())
        return f"{name}, {torch.get_num_threads()} threads"
    return kind
