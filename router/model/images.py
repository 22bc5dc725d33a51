"""Where the features of an image go in its prompt."""

from __future__ import annotations

import numpy as np

from router.engine.request import ImageInput


def image_token_positions(image: ImageInput) -> tuple[np.ndarray, np.ndarray]:
    """Prompt positions of an image's [IMG] tokens, and the feature each one takes.

    Every grid row ends in one break (or end) token, which keeps its ordinary embedding.
    """
    features = np.arange(image.grid_width * image.grid_height)
    row, column = np.divmod(features, image.grid_width)
    return image.offset + row * (image.grid_width + 1) + column, features
