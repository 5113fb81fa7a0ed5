"""Writes JPEG, PNG, GIF and WebP files with what Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(pixels: np.ndarray | Image.Image, **options: object) -> bytes:
    return saved(pixels, "JPEG", **{"quality": 95, "subsampling": 0, **options})


def segment(file: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment, before all others."""
    return file[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + file[2:]


def exif(orientation: int, order: str = "<", kind: int = 3, more: Sequence[bytes] = (), entries: int = 0) -> bytes:
    """TIFF's header and first directory. kind: 1 BYTE, 3 SHORT, 4 LONG; entries: how many it claims, 0: the truth."""
    value = struct.pack(order + {1: "B3x", 3: "H2x", 4: "I"}[kind], orientation)
    tags = [struct.pack(order + "HHI", 0x0112, kind, 1) + value, *more]
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return start + struct.pack(order + "H", entries or len(tags)) + b"".join(tags) + bytes(4)


def xmp(text: str) -> bytes:
    rdf = f'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description {text}</rdf:RDF>'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{rdf}</x:xmpmeta>'.encode()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def samples(pixels: np.ndarray, depth: int) -> bytes:
    """Rows of samples of 1 to 16 bits, [H, W] or [H, W, channels], each row after its filter's 0."""
    rows = pixels.reshape(len(pixels), -1)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        bits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., -depth:]
        packed = np.packbits(bits.reshape(len(rows), -1), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def png(
    pixels: np.ndarray, depth: int, colour: int, *before: bytes, after: bytes = b"", interlaced: bool = False
) -> bytes:
    """colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA; before, after: chunks around the data."""
    height, width = pixels.shape[:2]
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    data = b"".join(samples(pixels[y::dy, x::dx], depth) for y, x, dy, dx in passes)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    end = chunk(b"IDAT", zlib.compress(data)) + after + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + end


def raw_profile(kind: str, content: bytes) -> bytes:
    """As ImageMagick keeps metadata in a PNG."""
    text = f"\n{kind}\n{len(content):8}\n{content.hex()}\n"
    return chunk(b"tEXt", b"Raw profile type " + kind.encode() + b"\0" + text.encode())


def gif(screen: tuple[int, int], palette: list[tuple[int, int, int]], frames: list[tuple]) -> bytes:
    """frames: (left, top, indices, transparent index or None, disposal). Uncompressed: codes of 8 bits throughout."""
    table = b"".join(map(bytes, palette)).ljust(3 * 128, b"\0")
    out = b"GIF89a" + struct.pack("<HHBBB", *screen, 0xF6, 0, 0) + table
    for left, top, indices, clear, disposal in frames:
        flags = disposal << 2 | (clear is not None)
        out += b"!\xf9\x04" + struct.pack("<BHB", flags, 10, clear or 0) + b"\0"
        out += b"," + struct.pack("<HHHHB", left, top, *indices.shape[::-1], 0) + b"\x07"
        flat = indices.tobytes()
        codes = b"".join(b"\x80" + flat[i : i + 100] for i in range(0, len(flat), 100)) + b"\x81"
        out += b"".join(bytes([len(codes[i : i + 255])]) + codes[i : i + 255] for i in range(0, len(codes), 255))
        out += b"\0"
    return out + b";"


def moving_webp(screen: tuple[int, int], left: int, top: int, frame: np.ndarray) -> bytes:
    """An animation of one frame that is smaller than the screen; its background is red, which no viewer shows."""

    def part(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)

    def three(*numbers: int) -> bytes:
        return b"".join(struct.pack("<I", number)[:3] for number in numbers)

    still = saved(frame, "WEBP", lossless=True)[12:]
    height, width = frame.shape[:2]
    body = b"WEBP" + part(b"VP8X", b"\x12\0\0\0" + three(screen[0] - 1, screen[1] - 1))
    body += part(b"ANIM", bytes([0, 0, 255, 255]) + b"\0\0")
    body += part(b"ANMF", three(left // 2, top // 2, width - 1, height - 1, 100) + b"\0" + still)
    return b"RIFF" + struct.pack("<I", len(body)) + body
