"""What two classifiers' answers to the same images say of their difference: no more than the images can tell.

The interval is Tango's score interval for a difference of paired shares (Tango, Statistics in Medicine 17, 1998,
891-908): it keeps its coverage where few images or none are answered differently, where Wald's shrinks to a point.
The test is McNemar's, exact (McNemar, Psychometrika 12, 1947).
"""

from __future__ import annotations

import math

_Z = 1.959964
_MOST_IMAGES = 100_000_000


def interval(lost: float, gained: float, images: float) -> tuple[float, float]:
    """The 95 % interval of the share of images that are answered rightly no more.

    ``lost`` are answered rightly by the first alone, ``gained`` by the second alone.
    """
    value = (lost - gained) / images
    return (_edge(lost, gained, images, -1.0, value, _Z), _edge(lost, gained, images, value, 1.0, -_Z))


def _edge(lost: float, gained: float, images: float, low: float, high: float, wanted: float) -> float:
    """The difference at which the score is ``wanted``; the score falls as the difference grows."""
    for _ in range(60):
        middle = (low + high) / 2
        if _score(lost, gained, images, middle) > wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score(lost: float, gained: float, images: float, difference: float) -> float:
    a = 2 * images
    b = -lost - gained + (2 * images - lost + gained) * difference
    c = -gained * difference * (1 - difference)
    share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = images * (2 * share + difference * (1 - difference))
    above = lost - gained - images * difference
    return above / math.sqrt(variance) if variance > 1e-12 else math.copysign(math.inf, above) if above else 0.0


def p_value(lost: int, gained: int) -> float:
    """McNemar's exact two-sided test that neither is the better."""
    both = lost + gained
    tail = math.fsum(math.exp(math.lgamma(both + 1) - math.lgamma(k + 1) - math.lgamma(both - k + 1)
                              - both * math.log(2)) for k in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail)


def images_needed(lost: int, gained: int, images: int, most: float) -> int | None:
    """With how many images the same shares would have an interval of ``most`` at most; None where with none."""
    if (lost - gained) / images >= most:
        return None

    def enough(count: int) -> bool:
        return interval(lost * count / images, gained * count / images, count)[1] <= most

    high = max(images, 1)
    while not enough(high):
        high *= 2
        if high > _MOST_IMAGES:
            return None
    low = 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high
