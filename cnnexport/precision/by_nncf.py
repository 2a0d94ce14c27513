"""int8 by NNCF (``cnnexport[nncf]``): it corrects each bias by the mean that rounding moved its layer's output by.

Measured on ResNet-50 and VGG-16, its files run slower in ONNX Runtime than those of ``int8`` (biases in float32, no
range behind a last ReLU, so that products are not fused), and it is near where those are: it is taken where asked for,
or where they do not keep the budget and it does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from cnnexport.bundle.records import Kept
from cnnexport.errors import InputError, UsageError
from cnnexport.precision.calibration import Batches
from cnnexport.precision.int8 import Made, check_float, end_of
from cnnexport.precision.ranges import quiet
from cnnexport.text import all_in_line


def installed() -> bool:
    """Whether NNCF can be imported."""
    return importlib.util.find_spec("nncf") is not None


def write(source: Path, place: Path, batches: Batches, keep: Mapping[str, str] | None = None) -> Made:
    """Quantise the float32 file ``source`` to ``place`` on ``batches``; the nodes of ``keep`` stay in float32.

    Raises UsageError where NNCF is not installed, and InputError where there is nothing to quantise or it fails.
    """
    if not installed():
        raise UsageError("NNCF is not installed: pip install 'cnnexport[nncf]', or leave --quantizer out")
    import onnx

    model = onnx.load(source)
    check_float(model, source)
    last, behind = end_of(model.graph)
    kept = {**(keep or {}), **{name: f"follows {last.name}, the last product" for name in behind}}
    images = [{name: a[i:i + 1] for name, a in feeds.items()} for feeds in batches()
              for i in range(len(next(iter(feeds.values()))))]
    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # its progress
        try:
            import nncf

            made = nncf.quantize(
                model, nncf.Dataset(images), subset_size=len(images), target_device=nncf.TargetDevice.CPU,
                ignored_scope=nncf.IgnoredScope(names=sorted(kept), validate=False))
            onnx.save(made, place)
        except Exception as error:  # the library raises whatever fails within
            raise InputError(f"{source} cannot be quantised by NNCF ({all_in_line(error)}); leave --quantizer out"
                             ) from error
    reasons = [Kept(node=n.name, operator=n.op_type, reason=kept[n.name]) for n in onnx.load(source).graph.node
               if n.name in kept]
    return Made({"format": "QDQ", "weights": "int8, symmetric, per channel", "biases": "float32, corrected",
                 "by": f"nncf {metadata.version('nncf')}"}, tuple(reasons), (
        "NNCF chose the ranges and moved biases: only that they lie within the images' is audited",))
