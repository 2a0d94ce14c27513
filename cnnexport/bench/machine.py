"""What a timing depends on besides the code: processor, load, limits, clocks, heat, GPU. Read, never set."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_CGROUP = Path("/sys/fs/cgroup")


def _text(path: str | Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text(encoding="utf-8").strip()
    return None


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@functools.cache
def facts() -> dict[str, Any]:
    """What does not change during a run. Unreadable figures are None."""
    memory = None
    with contextlib.suppress(AttributeError, ValueError, OSError):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "affinity": affinity,
        "memory_bytes": memory,
        "cgroup": cgroup_limits(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
        "environment": {name: value for name, value in sorted(os.environ.items())
                        if name.startswith(("OMP_", "KMP_", "OPENBLAS_", "MKL_", "CUDA_", "ORT_", "TF_ONEDNN"))},
        "gpus": gpus(),
    }


def cgroup_limits() -> dict[str, Any]:
    """Cores and memory that the control group allows; None where it sets no limit."""
    cores: float | None = None
    quota = (_text(_CGROUP / "cpu.max") or "").split()
    if len(quota) == 2 and quota[0] != "max":
        with contextlib.suppress(ValueError, ZeroDivisionError):
            cores = int(quota[0]) / int(quota[1])
    memory = _text(_CGROUP / "memory.max")
    return {"cpu_cores": cores, "memory_bytes": int(memory) if memory and memory.isdigit() else None}


def state() -> dict[str, Any]:
    """What changes: load averages over 1, 5 and 15 minutes, clocks, temperature, throttled time. None if unreadable."""
    load = None
    with contextlib.suppress(AttributeError, OSError):
        load = [round(x, 2) for x in os.getloadavg()]
    clocks = [float(line.split(":", 1)[1]) for line in (_text("/proc/cpuinfo") or "").splitlines()
              if line.startswith("cpu MHz")]
    heat = [int(text) / 1000 for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))
            if (text := _text(zone)) and text.lstrip("-").isdigit()]
    throttled = next((int(line.split()[1]) for line in (_text(_CGROUP / "cpu.stat") or "").splitlines()
                      if line.startswith("throttled_usec ")), None)
    steal = None
    first = (_text("/proc/stat") or "").splitlines()[:1]
    if first and len(fields := first[0].split()) > 8:
        with contextlib.suppress(ValueError, OSError, AttributeError):
            steal = int(fields[8]) / os.sysconf("SC_CLK_TCK")
    return {
        "load_average": load,
        "cpu_mhz": round(sum(clocks) / len(clocks)) if clocks else None,
        "cpu_temperature_c": max(heat, default=None),
        "throttled_us": throttled,
        "steal_s": steal,
        "gpus": gpus(),
    }


def gpus() -> list[dict[str, Any]]:
    """Model, driver, clocks and temperature of each NVIDIA GPU, from nvidia-smi; empty where there is none."""
    names = ("name", "driver_version", "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "memory.total",
             "clocks_throttle_reasons.active", "compute_mode")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"],
                              capture_output=True, text=True, timeout=10, check=True)
        return [dict(zip(names, (cell.strip() for cell in line.split(",")))) for line in done.stdout.splitlines()]
    return []


@functools.cache
def gpu_present() -> bool:
    """Whether nvidia-smi names a GPU."""
    return bool(gpus())


def identity() -> dict[str, Any]:
    """What must be equal for two runs to be of the same machine; ``compare`` refuses others."""
    known = facts()
    return {
        "cpu": known["cpu"], "usable cores": usable_cores(), "memory GiB": _gib(known["memory_bytes"]),
        "cgroup cores": known["cgroup"]["cpu_cores"], "cgroup memory GiB": _gib(known["cgroup"]["memory_bytes"]),
        "system": f"{known['system']} {platform.machine()}",
        "gpus": [f"{gpu['name']}, driver {gpu['driver_version']}" for gpu in known["gpus"]],
    }


def _gib(size: int | None) -> int | None:
    return None if size is None else round(size / 2**30)
