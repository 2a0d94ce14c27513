"""Does an architecture agree with its paper? Every figure is counted again, and every difference must add up."""

from __future__ import annotations

from cnnexport.architectures.spec import Architecture

MACS_TOLERANCE = 0.02
"""Papers print multiply-adds to two or three figures."""


def audit(spec: Architecture) -> list[str]:
    """One line for each figure of ``spec`` that contradicts another; none where all agree.

    The parameters built, less what the differences add, are the paper's (to the rounding it prints), the
    multiply-adds within 2 %, and the layer table adds up to what is built. Does not import Keras.
    """
    wrong = []
    figure = spec.paper_parameters
    if figure is not None:
        rest = spec.parameters - sum(d.parameters for d in spec.differences) - figure.value
        if abs(rest) > (figure.step / 2 if figure.step > 1 else 0):
            wrong.append(f"{spec.name}: {rest:+,} parameters are explained by no difference from the paper's "
                         f"{figure.printed}")
    figure = spec.paper_macs
    if figure is not None:
        rest = spec.macs - sum(d.macs for d in spec.differences) - figure.value
        if abs(rest) > MACS_TOLERANCE * figure.value:
            wrong.append(f"{spec.name}: {rest:+,} multiply-adds are explained by no difference from the paper's "
                         f"{figure.printed}")
    if None in (spec.paper_parameters, spec.paper_macs) and not spec.differences:
        wrong.append(f"{spec.name}: the paper's figures are missing, and no difference says why")
    if spec.table is not None:
        rows = spec.table(True)
        for name, total, built in (("parameters", sum(r.parameters for r in rows), spec.parameters),
                                   ("multiply-adds", sum(r.macs for r in rows), spec.macs)):
            if total != built:
                wrong.append(f"{spec.name}: the layer table has {total:,} {name}, the architecture {built:,}")
    return wrong
