"""How the tiles of an exported layer are encoded."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fusi_pipeline.tiles.image import encode_webp
from fusi_pipeline.tiles.picture import FORMATS, Pixels
from layer_generation.pictures import png


@dataclass(frozen=True, slots=True)
class TileFormat:
    """How tiles are encoded."""

    name: str = FORMATS[0]
    """One of FORMATS."""
    quality: int | None = None
    """Of lossy WebP, 1..100; None for lossless."""

    def encoded(self, picture: Pixels) -> bytes:
        """Return a picture, shape (rows, cols, 3 or 4), as a tile, without alpha where all is opaque."""
        if picture.shape[2] == 4 and (picture[..., 3] == 255).all():
            picture = np.ascontiguousarray(picture[..., :3])
        if self.name == "png":
            return png(picture)
        if self.quality is None:
            return encode_webp(picture, "libwebp")
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "WEBP", quality=self.quality, method=4)
        return buffer.getvalue()
