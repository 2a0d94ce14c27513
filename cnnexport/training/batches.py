"""tf.data pipelines: from stored images to batches of a network's input, the same for a seed, epoch by epoch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnexport.data import Preparation, Split, decode
from cnnexport.data.images import LUMA, resize, with_channels

_IN_MEMORY = 1 << 29
"""Bytes of resized images of files that are kept; above it they are decoded again in each epoch."""
_SHIFT, _ZOOM, _ANGLE = 0.07, 0.1, 10.0
"""The most that an image is moved (share of its size), zoomed (share) and turned (degrees)."""
_CROP = 256 / 227
"""How much larger than the crop an image is (Krizhevsky 2012: 256 against 224, which must be 227)."""


class Images:
    """Images of a split for tf.data. What never changes is done once: arrays become tensors, files are decoded."""

    def __init__(self, split: Split, preparation: Preparation) -> None:
        import tensorflow as tf

        self.preparation = preparation
        self.size = (preparation.height, preparation.width)
        self.labels = tf.constant(split.labels)
        self.count = len(split)
        self.scale = split.scale
        self.paths: tuple[Any, ...] = ()
        if isinstance(split.images, np.ndarray):
            images = split.images if split.images.ndim == 4 else split.images[..., None]
            self.pixels = tf.constant(images.astype(np.uint8) if images.dtype == bool else images)
        elif 4 * self.count * preparation.channels * self.size[0] * self.size[1] <= _IN_MEMORY:
            self.pixels = tf.constant(np.stack([self._read(path) for path in split.images]))
        else:
            self.pixels, self.paths = None, split.images

    def _read(self, path: Any) -> NDArray[np.float32]:
        pixels = with_channels(decode(path)[None].astype(np.float32), self.preparation.channels)
        pixels = resize(pixels, *self.size)
        return np.asarray(pixels[0])

    def some(self, indices: Any) -> Any:
        """Float32 pixels of 0..255 at the network's size and channels, (N, height, width, channels)."""
        import tensorflow as tf

        if self.pixels is None:
            shape = (None, *self.size, self.preparation.channels)
            read = tf.numpy_function(
                lambda places: np.stack([self._read(self.paths[i]) for i in places]), [indices], tf.float32)
            return tf.ensure_shape(read, shape)
        pixels = tf.cast(tf.gather(self.pixels, indices), tf.float32)
        if self.scale != 1.0:
            pixels *= np.float32(self.scale)
        if pixels.shape[1:3] != self.size:
            pixels = tf.image.resize(pixels, self.size)
        if pixels.shape[-1] == self.preparation.channels:
            return pixels
        if pixels.shape[-1] == 1:
            return tf.repeat(pixels, 3, axis=-1)
        return tf.reduce_sum(pixels * np.asarray(LUMA, np.float32), axis=-1, keepdims=True)


    def batches(
        self, orders: NDArray[np.int64], size: int, *, augment: tuple[str, ...] = (), seed: int = 0, first: int = 0
    ) -> Any:
        """A ``stream`` of (input, labels).

        ``augment`` is drawn by ``seed``, the epoch and the place in its order alone, so that a run that goes on draws
        what it would have drawn.
        """
        import tensorflow as tf

        recipe = self.preparation.recipe

        def ready(indices: Any, epoch: Any, place: Any) -> tuple[Any, Any]:
            pixels = self.some(indices)
            if augment:
                pixels = augmented(pixels, augment, (seed * 1_000_003 + epoch, place))
            if recipe.color_order == "BGR":
                pixels = pixels[..., ::-1]
            values = pixels * np.float32(recipe.scale) - np.asarray(recipe.mean, np.float32)
            if recipe.std:
                values /= np.asarray(recipe.std, np.float32)
            return values, tf.gather(self.labels, indices)

        return stream(ready, orders, size, first)


def stream(ready: Callable[[Any, Any, Any], Any], orders: NDArray[np.int64], size: int, first: int = 0) -> Any:
    """A tf.data.Dataset of ``ready(indices, epoch, place)``: batches of ``size``, one epoch after another.

    ``orders`` (epochs, N) holds the indices of each epoch, the first of which has the number ``first``; ``place`` is
    that of a batch's first index. Nothing in it changes while it runs, so that it may run ahead of the training even
    where TensorFlow must be deterministic.
    """
    import tensorflow as tf

    count = orders.shape[1]
    plain = tf.autograph.experimental.do_not_convert  # there is no Python to translate, which takes a second

    def epoch_of(order: Any, epoch: Any) -> Any:
        return tf.data.Dataset.range(0, count, size).map(plain(lambda place: (order[place:place + size], epoch, place)))

    epochs = np.arange(first, first + len(orders), dtype=np.int64)
    known = tf.data.experimental.assert_cardinality(len(orders) * -(-count // size))
    options = tf.data.Options()
    options.autotune.enabled = False  # it takes seconds of its own, and gains nothing over a call a core
    return (tf.data.Dataset.from_tensor_slices((orders, epochs)).flat_map(plain(epoch_of)).apply(known)
            .map(plain(ready), num_parallel_calls=os.cpu_count() or 1, deterministic=True).prefetch(2)
            .with_options(options))


def augmented(pixels: Any, kinds: tuple[str, ...], seed: tuple[Any, Any]) -> Any:
    """A batch (N, height, width, channels) of 0..255, each image changed at random by two-number ``seed``.

    All that moves pixels is one affine map about the centre, resampled bilinearly; beyond the edge lie its pixels.
    """
    import tensorflow as tf

    count = tf.shape(pixels)[0]
    height, width = pixels.shape[1:3]

    def draw(number: int, low: float, high: float) -> Any:
        key = tf.stack([tf.cast(seed[0], tf.int64) + 7 * number, tf.cast(seed[1], tf.int64)])
        return tf.random.stateless_uniform([count], key, low, high)

    zero = tf.zeros([count])
    zoom = 1 / draw(1, 1 - _ZOOM, 1 + _ZOOM) if "zoom" in kinds else zero + 1
    across, down = zero, zero
    if "crop" in kinds:
        zoom /= _CROP
        room = (1 - 1 / _CROP) / 2
        across, down = across + draw(2, -room, room) * width, down + draw(3, -room, room) * height
    if "shift" in kinds:
        across += tf.round(draw(4, -_SHIFT, _SHIFT) * width)
        down += tf.round(draw(5, -_SHIFT, _SHIFT) * height)
    angle = draw(6, -_ANGLE, _ANGLE) * math.pi / 180 if "rotate" in kinds else zero
    mirror = tf.where(draw(7, 0, 1) < 0.5, -1.0, 1.0) if "flip" in kinds else zero + 1
    if set(kinds) - {"brightness"}:
        cosine, sine = zoom * tf.cos(angle), zoom * tf.sin(angle)
        x, y = (width - 1) / 2, (height - 1) / 2
        rows = [cosine * mirror, -sine, x - cosine * mirror * x + sine * y + across,
                sine * mirror, cosine, y - sine * mirror * x - cosine * y + down, zero, zero]
        pixels = tf.raw_ops.ImageProjectiveTransformV3(
            images=pixels, transforms=tf.stack(rows, axis=1), output_shape=tf.constant([height, width]),
            fill_value=0.0, interpolation="BILINEAR", fill_mode="NEAREST")
        pixels = tf.ensure_shape(pixels, (None, height, width, pixels.shape[3]))
    if "brightness" in kinds:
        pixels = tf.clip_by_value(pixels * draw(8, 0.7, 1.3)[:, None, None, None], 0.0, 255.0)
    return pixels


def order_of(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of the images in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count).astype(np.int64)
