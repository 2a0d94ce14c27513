"""How far two correct runtimes may lie apart, from the precision and the depth of a network.

A dot product of n terms, summed in another order, moves by about ``eps * sqrt(n)`` of its size; through a
network the errors of the layers add up in quadrature. With ``terms`` the sum of n over all convolutions and
dense layers, rounding is about ``eps * sqrt(terms)`` of the output's spread. Measured on the architectures
here (float32): a root mean square of 0.1 to 0.6 and a maximum of 0.5 to 4 times that. The bounds leave a
factor of about seven; exponentials and other functions that runtimes approximate set the floor, and the
limits of MAX_ERROR and RMS_ERROR hold however deep the network is.

A mean or a norm over n pixels sums values of one sign, and a runtime that adds one after another is off by up to
``eps * n`` of the result (measured: ONNX Runtime's InstanceNormalization, 140 times TensorFlow's error at 64 x 64):
the longest such sum counts by its length. Networks that lose more digits than this are judged by what Keras itself
loses (``truth``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

EPSILON = {"float32": 2.0**-23, "float64": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Spacing of numbers near 1, by the lowest precision inside a model (weights are float32 at most here)."""

MAX_ERROR = {"float32": 1e-3, "float64": 1e-3, "float16": 1e-1, "bfloat16": 5e-1}
"""The largest error ever allowed, in standard deviations of the output."""

RMS_ERROR = {"float32": 2e-4, "float64": 2e-4, "float16": 3e-2, "bfloat16": 2e-1}
"""The largest root-mean-square error ever allowed, in standard deviations of the output."""

_MAX_FACTOR, _RMS_FACTOR = 30.0, 4.0
_MAX_FLOOR, _RMS_FLOOR = 2e-4, 4e-5

ROUNDING_ULPS = 64
"""Units in the last place of the largest output that are always allowed: an output whose spread is small
beside its size cannot be computed more exactly in its own precision."""

PERTURBATION = 0.01
"""The change of each weight that must be seen: one percent."""


@dataclass(frozen=True)
class Tolerance:
    """Errors allowed, in standard deviations of the output, and units in the last place always allowed."""

    precision: str
    terms: int | None
    max_error: float
    rms_error: float
    rounding_ulps: int
    longest_sum: int = 0

def tolerance(precision: str = "float32", terms: int | None = None, longest_sum: int = 0) -> Tolerance:
    """The tolerance for a network of lowest ``precision`` whose dot products have ``terms`` in all (None: unknown).

    ``longest_sum`` is the most values that a mean or norm in it adds up.
    """
    most, rms = MAX_ERROR[precision], RMS_ERROR[precision]
    if terms is not None:
        rounding = EPSILON[precision] * math.sqrt(terms)
        one_by_one = EPSILON[precision] * longest_sum
        most = min(most, max(_MAX_FACTOR * rounding, _MAX_FLOOR, one_by_one))
        rms = min(rms, max(_RMS_FACTOR * rounding, _RMS_FLOOR, one_by_one / 4))
    return Tolerance(precision, terms, most, rms, ROUNDING_ULPS, longest_sum)
