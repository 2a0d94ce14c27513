"""From a stored image to a network's input: decode, channels, resize, the formula of the preprocessing.

Pillow decodes everywhere, also while training: TensorFlow's JPEG decoder gives other pixels by default.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnexport import files
from cnnexport.architectures.spec import Preprocessing
from cnnexport.errors import InputError
from cnnexport.text import shortened

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What Pillow may take a file for, by its content: others start programs (EPS), or are little used and tested."""
_ACCEPTED = "PNG, JPEG, BMP, GIF, WebP, TIFF and PPM are read"
_MOST_BYTES = 1 << 30
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
"""Those that ``keras.utils.image_dataset_from_directory`` reads."""
LUMA = (0.2989, 0.5870, 0.1140)
"""Weights of red, green and blue in grey (ITU-R BT.601, as ``tf.image.rgb_to_grayscale`` rounds them)."""


@dataclass(frozen=True)
class Preparation:
    """How a stored image becomes the input of a network: (height, width, channels), then the ``recipe``'s formula."""

    height: int
    width: int
    channels: int
    recipe: Preprocessing

    def to_dict(self) -> dict[str, Any]:
        """The preparation as JSON-ready values, in the order of its steps."""
        return {"image": image_steps(self.height, self.width, self.channels),
                **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.recipe).items()}}


def image_steps(height: int, width: int, channels: int) -> dict[str, Any]:
    """What is done to a decoded image before the formula, in exact terms."""
    return {
        "decode": "8 bits a channel; grey stays grey, all else becomes RGB; alpha and orientation tags are ignored",
        "channels": channels,
        "to_grey": list(LUMA),
        "to_rgb": "grey repeated",
        "height": height,
        "width": width,
        "resize": "bilinear, half-pixel centres, no antialiasing, aspect ratio not kept, in float32, not rounded "
                  "(tf.image.resize)",
    }


def preparation(facts: dict[str, Any], height: int, width: int) -> Preparation:
    """The preparation that the ``preprocessing`` of a manifest or a run describes, at that size."""
    recipe = Preprocessing(
        description=str(facts["description"]), color_order=facts["color_order"], scale=float(facts["scale"]),
        mean=tuple(map(float, facts["mean"])), std=tuple(map(float, facts["std"])),
        value_range=(float(facts["value_range"][0]), float(facts["value_range"][1])))
    return Preparation(height, width, 1 if recipe.color_order == "grey" else 3, recipe)


def decode(path: Path | bytes) -> NDArray[np.uint8]:
    """The pixels of an image file, or of its content: uint8 (height, width) if grey, else (height, width, 3) in RGB.

    Of several frames it is the first.

    Its content decides what it is, never its name: one of FORMATS. Raises InputError naming a file that is missing, no
    image of these, truncated or absurdly large.
    """
    if isinstance(path, bytes):
        return _decoded(io.BytesIO(path), len(path), "the image")
    if not files.exists(path):
        raise InputError(f"{path} does not exist or is no file; give an image")
    return _decoded(path, files.regular(path, "give an image").stat().st_size, str(path))


def _decoded(file: Path | io.BytesIO, size: int, path: str) -> NDArray[np.uint8]:
    """As ``decode``; ``path`` is what an error calls the ``file``."""
    from PIL import Image, UnidentifiedImageError

    if size > _MOST_BYTES:
        raise InputError(f"{path} is larger than any image should be (over {_MOST_BYTES >> 20} MiB); make it smaller")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                if image.mode.startswith("I;16"):
                    return (np.asarray(image) >> 8).astype(np.uint8)
                if image.mode in ("I", "F"):
                    raise InputError(f"{path} has {image.mode} pixels, not 8 or 16 bits a channel; save it as 8 bits")
                grey = image.mode in ("1", "L", "LA", "La")
                return np.asarray(image.convert("L" if grey else "RGB"))
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is larger than any image should be ({error}); make it smaller") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is no image that can be read ({_ACCEPTED}); remove it or save it again") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        reason = shortened(str(error).replace(path, "it")) or type(error).__name__
        raise InputError(f"{path} is no image that can be read ({reason}); remove it or save it again") from error


def prepare(images: NDArray[Any], preparation: Preparation, *, scale: float = 1.0) -> NDArray[np.float32]:
    """The float32 input (N, height, width, channels) for images (N, h, w) or (N, h, w, 1 or 3).

    ``scale`` brings stored values to 0..255.
    """
    pixels = images.astype(np.float32)
    if scale != 1.0:
        pixels *= np.float32(scale)
    # Grey is repeated last: the same numbers, a third of the resizing.
    pixels = resize(with_channels(pixels, 1) if pixels.ndim == 3 else pixels, preparation.height, preparation.width)
    return formula(with_channels(pixels, preparation.channels), preparation.recipe)


def with_channels(pixels: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """(N, h, w) or (N, h, w, c) as (N, h, w, ``channels``): grey repeated, or colours weighted by LUMA."""
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    return (pixels @ np.asarray(LUMA, np.float32))[..., None]


def resize(pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear, half-pixel centres, no antialiasing: ``tf.image.resize`` of (N, h, w, c) to (N, height, width, c)."""
    if pixels.shape[1:3] == (height, width):
        return pixels
    top, bottom, down = _neighbours(pixels.shape[1], height)
    left, right, across = _neighbours(pixels.shape[2], width)
    across = across[None, None, :, None]
    upper, lower = pixels[:, top], pixels[:, bottom]
    upper = upper[:, :, left] + (upper[:, :, right] - upper[:, :, left]) * across
    lower = lower[:, :, left] + (lower[:, :, right] - lower[:, :, left]) * across
    result: NDArray[np.float32] = upper + (lower - upper) * down[None, :, None, None]
    return result


def _neighbours(size: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For each of ``wanted`` places the two source places beside it, and how far it lies towards the second."""
    scale = np.float32(size) / np.float32(wanted)
    place = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(place)
    first = np.maximum(floor, 0).astype(np.int64)
    second = np.minimum(np.ceil(place), size - 1).astype(np.int64)
    return first, second, (place - floor).astype(np.float32)


def formula(pixels: NDArray[np.float32], recipe: Preprocessing) -> NDArray[np.float32]:
    """``(pixels * scale - mean) / std`` per channel, in the recipe's color order."""
    if recipe.color_order == "BGR":
        pixels = pixels[..., ::-1]
    values = pixels * np.float32(recipe.scale) - np.asarray(recipe.mean, np.float32)
    if recipe.std:
        values /= np.asarray(recipe.std, np.float32)
    return np.asarray(values, np.float32)
