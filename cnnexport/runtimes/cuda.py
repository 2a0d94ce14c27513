"""Why CUDA does not start: the wheel, the driver, or a library that is missing; and what to do."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import sys

from cnnexport.distribution import extra
from cnnexport.runtimes.printed import shorten

EXECUTION_PROVIDER = "CUDAExecutionProvider"
BOTH_WHEELS_REMEDY = (
    "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install only one of them "
    "(onnxruntime-gpu runs on the CPU too)"
)
_DRIVER_REMEDY = "install NVIDIA's driver (nvidia.com/drivers; in a container, pass the GPU through)"
_WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


def not_compiled_in(name: str) -> tuple[str, str]:
    """Why the installed wheel lacks provider ``name``, and what to do."""
    if name != EXECUTION_PROVIDER:
        return "this ONNX Runtime was built without it", "install a build of ONNX Runtime that has it"
    installed = installed_wheels()
    if "onnxruntime-gpu" in installed and "onnxruntime" in installed:
        return "the onnxruntime and onnxruntime-gpu wheels overwrite each other", BOTH_WHEELS_REMEDY
    if sys.platform == "darwin":
        return "macOS has no CUDA", "use the cpu provider"
    return ("the plain onnxruntime wheel has no CUDA provider",
            f"pip uninstall onnxruntime && pip install onnxruntime-gpu (or {extra('cuda')})")


def explain(text: str) -> tuple[str, str]:
    """Why CUDA did not start, told from ONNX Runtime's errors and from the libraries here, and what to do."""
    found = re.search(r"(lib[\w+-]+\.so[.\d]*): cannot open shared object", text)
    missing = found.group(1) if found else None
    if missing is None and (found := re.search(r"depends on \"?([\w.-]+\.dll)", text)):
        missing = found.group(1)
    driver = _driver_problem()
    if missing is not None and not missing.startswith(("libcuda.so", "nvcuda")):
        also = f" ({driver} too)" if driver else ""
        remedy = extra("cuda") + (f", and {_DRIVER_REMEDY}" if driver else "")
        return f"{missing} is missing{also}", remedy
    if driver:
        return driver, _DRIVER_REMEDY
    absent = _absent_libraries()
    if absent:
        return f"{', '.join(absent)} missing", extra("cuda")
    failure = re.search(r"((?:CUDA|CUDNN) (?:failure|error)[^\n]*|CUDNN_[^\n]*)", text, re.IGNORECASE)
    reason = failure.group(1) if failure else text
    return (
        shorten(reason) or "ONNX Runtime gave no reason",
        f"check that the driver and the GPU fit this onnxruntime-gpu (nvidia-smi), or {extra('cuda')}",
    )


def _driver_problem() -> str | None:
    """What keeps the CUDA driver from working; None when it sees a device."""
    import ctypes

    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"the driver library {library} is missing"
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code == 100 or (code == 0 and count.value == 0):
        return "the driver finds no CUDA device"
    return f"the CUDA driver does not start (error {code})" if code else None


def _absent_libraries() -> list[str]:
    """The CUDA libraries that the dynamic loader does not find (Linux; elsewhere none is reported)."""
    import ctypes

    if not sys.platform.startswith("linux"):
        return []
    wanted = {
        "libcudart": ("libcudart.so.12", "libcudart.so.13"),
        "libcublasLt": ("libcublasLt.so.12", "libcublasLt.so.13"),
        "libcudnn": ("libcudnn.so.9",),
        "libcufft": ("libcufft.so.11", "libcufft.so.12"),
        "libcurand": ("libcurand.so.10",),
    }
    absent = []
    for versions in wanted.values():
        for version in versions:
            with contextlib.suppress(OSError):
                ctypes.CDLL(version)
                break
        else:
            absent.append(" or ".join(versions))
    return absent


def installed_wheels() -> dict[str, str]:
    """The installed ONNX Runtime wheels and their versions."""
    return {name: version for name in _WHEELS if (version := installed_version(name)) is not None}


def installed_version(name: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
