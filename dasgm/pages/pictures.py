"""Pictures of a run's folder, embedded in its page."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

from dasgm.pages.view import MOST_PIXELS, Json
from dasgm.store.files import contents

PICTURE_BYTES = 300_000  # a larger picture is made smaller: a page has four, and at most 3 MB


def embedded(path: Path, most: int = PICTURE_BYTES) -> Json | None:
    """A picture as a data URI, made smaller until it has at most `most` bytes; None if it cannot be read."""
    from PIL import Image

    try:
        data, kind = contents(path), "png"
        with Image.open(BytesIO(data), formats=["PNG"]) as opened:  # some of its formats start programs
            if opened.width * opened.height > MOST_PIXELS:
                return None
            image = opened.convert("RGB")
        size = image.size
        while len(data) > most:
            buffer = BytesIO()
            image.save(buffer, "WEBP", quality=80)
            data, kind, image = buffer.getvalue(), "webp", image.reduce(2)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's words for a torn PNG
        return None
    epoch = path.stem.rpartition("-")[2].lstrip("0") or "0"
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"uri": uri, "width": size[0], "height": size[1], "epoch": epoch}
