#!/usr/bin/env python3
"""Write tests/golden/resize.jsonl: what Pillow's bicubic resize gives, as hashes.

    python make_resize_goldens.py                # write the file; needs Pillow before 13
    python make_resize_goldens.py --check        # compare the installed Pillow, of any version, with the file

Pillow resizes 8-bit pictures in two passes and rounds to bytes in between, so the order of the passes
shows in the result.  Before version 13 the horizontal pass comes first, except for a picture more than
100 times as high as wide that gets lower.  Version 13 puts the vertical pass first for many more sizes
(see `pillow13_order`).  Each row of the file records what Pillow before 13 gives ("horizontal", its rule
for nearly all sizes) and the vertical pass first ("vertical").

Source pixels and hashes are made from 32- and 64-bit integer arithmetic alone, so that a test in any
language can build the same picture (`source`) and the same hash (`fnv1a64`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

OUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "resize.jsonl"

# (width, height) of the sources, each resized to every size of its group.
TO_224 = [
    # one or a few pixels wide or high
    (1, 1), (1, 2), (2, 1), (1, 7), (7, 1), (1, 224), (224, 1), (1, 1000), (1000, 1), (3, 1000), (1000, 3), (2, 2), (3, 5),
    # enlarged
    (37, 50), (50, 37), (96, 96), (100, 100), (128, 17), (17, 128), (200, 90), (61, 143), (223, 223),
    # one axis unchanged, or almost
    (224, 224), (224, 300), (300, 224), (224, 100), (100, 224), (225, 223), (223, 225), (225, 225),
    # reduced, from a little to a lot
    (240, 320), (256, 256), (300, 400), (400, 300), (333, 500), (600, 400), (427, 640), (640, 427), (640, 480),
    (480, 640), (448, 448), (447, 449), (672, 1344), (800, 600), (1023, 767), (1080, 2400), (2400, 1080), (2048, 3000), (3000, 2048),
    # around the bounds of Pillow 13's rule, height - 224 against twice width - 224
    (324, 424), (324, 425), (324, 423), (225, 226), (225, 227), (124, 225), (124, 224), (124, 223), (224, 225), (226, 224), (300, 2000),
]
TO_96 = [(96, 96), (96, 224), (224, 96), (37, 50), (427, 640), (640, 427), (200, 1500), (1, 9), (9, 1)]
TO_384 = [(384, 384), (224, 224), (427, 640), (640, 427), (300, 400), (1080, 2400)]
TO_56 = [(56, 56), (61, 143), (200, 90), (427, 640), (7, 1), (1, 7), (1000, 57)]
TO_OBLONG = [((100, 80), (64, 48)), ((80, 100), (48, 64)), ((64, 300), (64, 20)), ((300, 64), (20, 64)), ((50, 50), (120, 30))]
# Sizes that are tried with the hard-edged patterns too, where clipping and rounding are hardest.
HARD = [(1, 7), (37, 50), (225, 223), (224, 300), (300, 400), (427, 640), (640, 427), (333, 1000)]


def cases() -> list[tuple[tuple[int, int], tuple[int, int], str, int]]:
    """(source size, target size, kind of source, seed)."""
    pairs = [(size, (n, n)) for n, sizes in ((224, TO_224), (96, TO_96), (384, TO_384), (56, TO_56)) for size in sizes]
    rows = [(a, b, "noise", 1000 + i) for i, (a, b) in enumerate(pairs + TO_OBLONG)]
    for i, size in enumerate(HARD):
        rows += [(size, (224, 224), "blocks", 2000 + i), (size, (224, 224), "checker", 1 + i % 3)]
    return rows


def hash32(x: np.ndarray) -> np.ndarray:
    """A 32-bit integer mixer (all arithmetic modulo 2^32)."""
    x = x.astype(np.uint32)
    x ^= x >> 16
    x *= np.uint32(0x7FEB352D)
    x ^= x >> 15
    x *= np.uint32(0x846CA68B)
    x ^= x >> 16
    return x


def source(kind: str, seed: int, width: int, height: int) -> np.ndarray:
    """The source picture, bytes of shape (height, width, 3).

    noise    byte i in memory order is the top byte of hash32(i * 0x9E3779B9 + seed)
    blocks   blocks 5 wide and 7 high: 255 where the noise byte number (y/7 * 4096 + x/5) * 3 + channel is 128 or more, else 0
    checker  squares of c = seed + channel: 255 where (x/c + y/c) is odd, else 0
    """
    y, x, channel = np.ogrid[:height, :width, :3]
    if kind == "checker":
        side = seed + channel
        return (((x // side + y // side) % 2) * 255).astype(np.uint8)
    index = (y * width + x) * 3 + channel if kind == "noise" else (y // 7 * 4096 + x // 5) * 3 + channel
    noise = (hash32(index * 0x9E3779B9 + seed & 0xFFFFFFFF) >> 24).astype(np.uint8)
    return noise if kind == "noise" else np.where(noise >= 128, 255, 0).astype(np.uint8)


def fnv1a64(data: bytes) -> str:
    """64-bit FNV-1a as 16 hexadecimal digits: for each byte, h = (h xor byte) * 0x100000001B3 mod 2^64,
    from h = 0xCBF29CE484222325."""
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def resize_vertical_first(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One axis at a time, so that the order is ours whatever the version of Pillow."""
    return resize(resize(pixels, (pixels.shape[1], size[1])), size)


def pillow13_order(source_size: tuple[int, int], size: tuple[int, int]) -> str:
    """The pass that Pillow 13 does first."""
    fewer_columns, fewer_rows = (a - b for a, b in zip(source_size, size))
    return "vertical" if fewer_rows > 0 and fewer_rows > 2 * fewer_columns else "horizontal"


def write() -> None:
    assert int(PIL.__version__.split(".")[0]) < 13, "Pillow 13 has another order"
    rows = []
    for source_size, size, kind, seed in cases():
        pixels = source(kind, seed, *source_size)
        rows.append({
            "in": source_size, "out": size, "source": kind, "seed": seed, "source_hash": fnv1a64(pixels[:8].tobytes()),
            "horizontal": fnv1a64(resize(pixels, size).tobytes()),
            "vertical": fnv1a64(resize_vertical_first(pixels, size).tobytes()),
            "pillow13": pillow13_order(source_size, size),
        })
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("".join(json.dumps(row) + "\n" for row in rows))
    differ = sum(row["horizontal"] != row["vertical"] for row in rows)
    swapped = sum(row["pillow13"] == "vertical" for row in rows)
    print(f"Pillow {PIL.__version__}: {len(rows)} cases, {differ} where the order shows, {swapped} vertical first in Pillow 13")


def check() -> None:
    rows = [json.loads(line) for line in OUT.read_text().splitlines()]
    new = int(PIL.__version__.split(".")[0]) >= 13
    wrong = []
    for row in rows:
        got = fnv1a64(resize(source(row["source"], row["seed"], *row["in"]), row["out"]).tobytes())
        if got != row[row["pillow13"] if new else "horizontal"]:
            wrong.append(row)
    print(f"Pillow {PIL.__version__}: {len(rows) - len(wrong)} of {len(rows)} as recorded")
    for row in wrong:
        print(row)
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the installed Pillow with the file")
    check() if parser.parse_args().check else write()
