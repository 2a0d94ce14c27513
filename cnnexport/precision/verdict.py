"""From what was measured to ``ship``, ``reject`` or ``inconclusive``.

Accuracy decides where there are labelled images and weights that were trained. Else nearness to the float32 file can
reject and never ship: that a network answers alike on some images says nothing of how often it is right.
"""

from __future__ import annotations

from typing import Literal

from cnnexport.bundle.records import Fidelity, PairedAccuracy, SpeedFacts, VariantVerdict
from cnnexport.parity.tolerances import RMS_ERROR
from cnnexport.text import byte_count

Outcome = Literal["ship", "reject", "inconclusive"]
Purpose = Literal["speed", "size"]
_RANKS: dict[Outcome, int] = {"ship": 0, "inconclusive": 1, "reject": 2}

_TOLD = 3
"""Layers that the text names; the record has all."""

ALLOWED_RMS = {"int8": 0.5, "fp16": RMS_ERROR["float16"], "bf16": RMS_ERROR["bfloat16"]}
"""What logits may be off the float32 file's, in standard deviations, where nothing else tells.

Seen of int8: 0.01 to 0.28 of sound files (trained LeNet-5, random ResNet-50 at 64x64), 0.90 to 0.92 where the softmax
was quantised too: 0.5 lies between. Of the others it is what the gate allows a network that computes in them.
"""


def judge(
    *, purpose: Purpose, untrained: bool | None, faults: tuple[str, ...], accuracy: PairedAccuracy | None,
    near: Fidelity, speed: SpeedFacts, size: int, float_size: int,
) -> tuple[Outcome, tuple[str, ...]]:
    """The verdict and its reasons, what decides it first."""
    found: list[tuple[Outcome, str]] = [("reject", fault) for fault in faults]
    if accuracy is None or untrained:
        found.append(_by_fidelity(near, untrained))
    else:
        found.append(_by_accuracy(accuracy))
        if near.logits_rms > near.allowed_rms:  # classes may agree where probabilities no longer mean anything
            found.append(("inconclusive", f"logits are {near.logits_rms:.2g} standard deviations from float32's "
                                          f"({near.allowed_rms:g} allowed)"))
    found.append(_by_speed(speed) if purpose == "speed" else _by_size(size, float_size))
    found.sort(key=lambda row: -_RANKS[row[0]])
    return found[0][0], tuple(reason for _, reason in found)


def _by_accuracy(a: PairedAccuracy) -> tuple[Outcome, str]:
    low, high = a.drop_interval_95
    told = (f"accuracy falls by {a.drop_points:.2f} points ({low:.2f} to {high:.2f} at 95 %) on {a.images:,} images of "
            f"{a.data}, {a.max_drop:g} allowed")
    if high <= a.max_drop:
        return "ship", told
    if low > a.max_drop:
        return "reject", told
    more = ("no number of images would settle it at this rate" if a.images_needed is None
            else f"it would take {a.images_needed:,} images at this rate")
    return "inconclusive", f"{told}; {more}"


def _by_fidelity(f: Fidelity, untrained: bool | None) -> tuple[Outcome, str]:
    why = "the weights are untrained" if untrained else "there are no labelled images (--data)"
    told = (f"logits are {f.logits_rms:.2g} standard deviations from float32's ({f.allowed_rms:g} allowed) and "
            f"{f.top_1_agreement:.1%} of {f.images:,} images get the same class: fidelity, not accuracy, as {why}")
    return ("inconclusive" if f.logits_rms <= f.allowed_rms else "reject"), told


def _by_speed(s: SpeedFacts) -> tuple[Outcome, str]:
    low, high = s.speed_up_interval_95
    told = (f"{s.speed_up:.2f} times as fast as float32 ({low:.2f} to {high:.2f} at 95 %) in {s.runtime}, batch "
            f"{s.batch}, {s.threads} thread{'s' if s.threads > 1 else ''}")
    if low > 1:
        return "ship", told
    return ("reject" if high < 1 else "inconclusive"), f"{told}, so not seen to be faster; --for size asks for less"


def _by_size(size: int, float_size: int) -> tuple[Outcome, str]:
    told = f"{byte_count(size)}, {size / float_size:.0%} of float32's {byte_count(float_size)}"
    return ("ship" if size < float_size else "reject"), told


def format_verdict(v: VariantVerdict) -> str:
    """A verdict as lines of text."""
    lines = [f"{v.verdict}: {v.model} ({v.model_sha256[:12]})", *(f"  {reason}" for reason in v.reasons)]
    near, speed = v.fidelity, v.speed
    if v.accuracy is not None:
        a = v.accuracy
        lines.append(f"  accuracy  {a.correct / a.images:.2%}, float32 {a.float_correct / a.images:.2%}; same class "
                     f"{a.agreement:.2%}; McNemar p = {a.p_value:.2g}")
        if a.flips:
            lines.append("  flips     " + ", ".join(f"{name}: {count}" for name, count in a.flips.items()))
    lines += [
        f"  fidelity  {near.logits_rms:.2g} standard deviations (largest {near.logits_max:.2g}) on {near.images:,} "
        f"images of {near.source}",
        f"  speed     {speed.variant_ms:.3g} ms, float32 {speed.float_ms:.3g} ms, {speed.speed_up:.2f} times as fast",
        f"  size      {byte_count(v.bytes)}, float32 {byte_count(v.float_bytes)}"]
    worst = sorted(v.layers, key=lambda layer: layer.sqnr_db)[:_TOLD]
    if worst:
        lines.append("  layers    " + ", ".join(f"{w.layer} {w.sqnr_db:.1f} dB" for w in worst) + " are the noisiest")
    if v.precision == "int8":
        told = [f"{name} {v.settings[name]}" for name in ("weights", "activations", "ranges") if name in v.settings]
        lines.append("  made      " + "; ".join([*told, f"by {v.settings.get('by', 'another version')}"]))
    lines += [f"  float32   {k.node} ({k.operator}): {k.reason}" for k in v.kept]
    lines += [f"  note      {note}" for note in v.notes]
    return "\n".join(lines)
