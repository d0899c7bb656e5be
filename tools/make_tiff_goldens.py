#!/usr/bin/env python3
"""Write tests/golden/tiff.bin and tests/golden/tiff.jsonl: TIFF files of every kind and what Pillow makes of them.

    python make_tiff_goldens.py            # write both files
    python make_tiff_goldens.py --check    # make nothing, compare the installed Pillow with what is recorded

Needs Pillow 12.3 and numpy.  The files are packed as those of make_jpeg_goldens.py.  `"unsupported": true` marks what
Pillow reads and this library refuses by name.  Files come from Pillow, and from `tiff` below where Pillow does not write
them: tiles, planes, big-endian and 16-bit samples, other bits, premultiplied alpha, extra samples.
"""

from __future__ import annotations

import io
import itertools
import struct
import sys
import zlib

import numpy as np
from PIL import Image

import make_jpeg_goldens
from make_jpeg_goldens import photo

WIDTH, HEIGHT = 29, 21


def save(picture: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, "TIFF", **options)
    return out.getvalue()


def tiff(chunks: list[bytes], tags: dict[int, tuple[str, list[int]]], order: str = "<", big: bool = False) -> bytes:
    """A file of these strips or tiles.  `tags` has a type of struct and the values of each tag; places and lengths of
    the chunks are added, as tiles where there is a tile's width (322)."""
    tags = dict(tags)
    offset, places = 16 if big else 8, []
    for chunk in chunks:
        places.append(offset)
        offset += len(chunk)
    place_type = "Q" if big else "I"
    tags |= {324: (place_type, places), 325: ("I", [len(c) for c in chunks])} if 322 in tags else {273: (place_type, places), 279: ("I", [len(c) for c in chunks])}
    types = {"B": 1, "H": 3, "I": 4, "Q": 16}
    body, entries, at = b"".join(chunks), b"", offset
    field = 8 if big else 4
    directory_bytes = (8 + 20 * len(tags) + 8) if big else (2 + 12 * len(tags) + 4)
    extra, extra_at = b"", at + directory_bytes
    for tag, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(data) > field:
            place = struct.pack(order + ("Q" if big else "I"), extra_at + len(extra))
            extra += data
        else:
            place = data.ljust(field, b"\0")
        entries += struct.pack(order + ("HHQ" if big else "HHI"), tag, types[kind], len(values)) + place
    mark = b"II" if order == "<" else b"MM"
    if big:
        head = mark + struct.pack(order + "HHHQ", 43, 8, 0, at)
        return head + body + struct.pack(order + "Q", len(tags)) + entries + bytes(8) + extra
    return mark + struct.pack(order + "HI", 42, at) + body + struct.pack(order + "H", len(tags)) + entries + bytes(4) + extra


def described(photometric: int, bits: list[int], **more) -> dict:
    """The tags of a picture of WIDTH by HEIGHT."""
    names = {"extra": 338, "format": 339, "planar": 284, "fill_order": 266, "compression": 259, "predictor": 317, "orientation": 274}
    tags = {256: ("H", [WIDTH]), 257: ("H", [HEIGHT]), 258: ("H", bits), 262: ("H", [photometric]), 277: ("H", [len(bits)])}
    for name, value in more.items():
        tags[names[name]] = ("H", value if isinstance(value, list) else [value])
    return tags


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows of samples of less than a byte."""
    planes = (values[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(planes.reshape(len(values), -1), axis=1).tobytes()


def files():
    """Yields (name, bytes)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rgb = Image.fromarray(photo(WIDTH, HEIGHT, 70))
    alpha = Image.fromarray((x * y % 256).astype(np.uint8))
    modes = {
        "1": rgb.convert("1"), "L": rgb.convert("L"), "LA": rgb.convert("LA"), "P": rgb.quantize(40), "RGB": rgb, "RGBA": rgb.convert("RGBA"),
        "CMYK": rgb.convert("CMYK"), "PA": rgb.quantize(20).convert("PA"), "I;16": Image.fromarray((x * 30 + y * 17).astype(np.uint16)),
        "I": Image.fromarray((x * 30 - y * 17).astype(np.int32)), "F": Image.fromarray((x * 7.3 - y * 2.5).astype(np.float32)),
    }
    for mode in ("LA", "RGBA"):
        modes[mode].putalpha(alpha)
    for (mode, picture), compression in itertools.product(modes.items(), (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd")):
        yield f"pillow-{mode}-{compression}", save(picture, **({"compression": compression} if compression else {}))
    yield "deflate-32946", save(rgb, compression="tiff_deflate")
    for compression in ("group3", "group4"):
        yield compression, save(modes["1"], compression=compression)
    for mode in ("L", "RGB"):
        yield f"jpeg-{mode}", save(modes[mode], compression="jpeg", quality=80)
    yield "jpeg-YCbCr", save(rgb.convert("YCbCr"), compression="jpeg", quality=80)
    yield "jpeg-strips", save(rgb, compression="jpeg", strip_size=16 * WIDTH * 3)
    for mode in ("P", "L", "RGB", "F"):
        yield f"pillow-big-{mode}", save(modes[mode], big_tiff=True)
    yield "pillow-big-zstd", save(rgb, big_tiff=True, compression="zstd")
    for orientation in range(1, 9):
        yield f"orientation-{orientation}", save(rgb, tiffinfo={274: orientation})
    for name, mode, predictor in (("RGB", "RGB", 2), ("L", "L", 2), ("I16", "I;16", 2), ("RGBA", "RGBA", 2), ("F", "F", 3), ("F2", "F", 2)):
        for compression in ("tiff_lzw", "tiff_adobe_deflate", "zstd"):
            yield f"predictor-{predictor}-{name}-{compression}", save(modes[mode], compression=compression, tiffinfo={317: predictor})
    yield "strips-raw", save(rgb, strip_size=700)
    yield "strips-lzw", save(rgb, compression="tiff_lzw", strip_size=700)
    yield "pages", save(rgb, save_all=True, append_images=[modes["L"]])

    r = np.random.default_rng(71)
    pixels = photo(WIDTH, HEIGHT, 72)
    six = np.dstack([pixels, alpha, photo(WIDTH, HEIGHT, 73)[..., :2]]).astype(np.uint8)
    for order, big in (("<", False), (">", False), ("<", True)):
        for bits, photometric in itertools.product((1, 2, 4, 8), (0, 1, 3)):
            values = r.integers(0, 1 << bits, (HEIGHT, WIDTH))
            tags = described(photometric, [bits])
            if photometric == 3:
                tags[320] = ("H", [int(v) for v in r.integers(0, 65536, 3 << bits)])
            yield f"{order}{'big' if big else ''}-{bits}-bit-{photometric}", tiff([packed(values, bits)], tags, order, big)
        wide = r.integers(0, 65536, (HEIGHT, WIDTH, 4)).astype(order + "u2")
        for name, photometric, count, extra in (("RGB", 2, 3, []), ("RGBA", 2, 4, [2]), ("RGBX", 2, 4, [0]), ("RGBa", 2, 4, [1]), ("RGB-", 2, 4, []), ("CMYK", 5, 4, [])):
            tags = described(photometric, [16] * count, **({"extra": extra} if extra else {}))
            yield f"{order}{'big' if big else ''}-16-bit-{name}", tiff([wide[..., :count].tobytes()], tags, order, big)
            deflated = tags | described(photometric, [16] * count, compression=8, **({"extra": extra} if extra else {}))
            yield f"{order}{'big' if big else ''}-16-bit-{name}-deflate", tiff([zlib.compress(wide[..., :count].tobytes())], deflated, order, big)
        small = r.integers(-400, 400, (HEIGHT, WIDTH))
        for kind, sample_format, photometric in itertools.product(("u1", "u2", "i1", "i2", "u4", "i4", "f4"), (1, 2, 3), (0, 1)):
            if {"u": 1, "i": 2, "f": 3}[kind[0]] == sample_format:
                data = small.astype(order + kind if kind[1] != "1" else kind).tobytes()
                tags = described(photometric, [8 * int(kind[1])], format=sample_format)
                yield f"{order}{'big' if big else ''}-grey-{kind}-{photometric}", tiff([data], tags, order, big)
    for name, photometric, count, extra in (
        ("RGBa", 2, 4, [1]), ("RGBX", 2, 4, [0]), ("RGBA-999", 2, 4, [999]), ("RGBA-untold", 2, 4, []), ("RGBXX", 2, 5, [0, 0]), ("RGBaX", 2, 5, [1, 0]),
        ("RGBAX", 2, 5, [2, 0]), ("RGBXXX", 2, 6, [0, 0, 0]), ("RGBAXX", 2, 6, [2, 0, 0]), ("RGBaXX", 2, 6, [1, 0, 0]), ("CMYKX", 5, 5, [0]), ("CMYKXX", 5, 6, [0, 0]),
        ("LA-1", 1, 2, [1]), ("LA-0", 1, 2, [0]), ("LX-untold", 1, 2, []), ("Lab", 8, 3, []), ("YCbCr", 6, 3, []), ("two-RGB", 2, 2, []),
    ):
        tags = described(photometric, [8] * count, **({"extra": extra} if extra else {}))
        yield f"8-bit-{name}", tiff([six[..., :count].tobytes()], tags)
    palette = {320: ("H", [int(v) for v in r.integers(0, 65536, 768)])}
    yield "palette-X", tiff([six[..., 2:4].tobytes()], described(3, [8, 8], extra=0) | palette)
    yield "palette-A", tiff([six[..., 2:4].tobytes()], described(3, [8, 8], extra=2) | palette)
    for order in "<>":
        for compression, name in ((1, "raw"), (8, "deflate")):
            squeeze = zlib.compress if compression == 8 else bytes
            for side in (16, 32):
                tiles = []
                padded = np.pad(pixels, ((0, -HEIGHT % side), (0, -WIDTH % side), (0, 0)), mode="edge")
                for ty in range(0, HEIGHT, side):
                    for tx in range(0, WIDTH, side):
                        tiles.append(squeeze(padded[ty : ty + side, tx : tx + side].tobytes()))
                tags = described(2, [8] * 3, compression=compression) | {322: ("H", [side]), 323: ("H", [side])}
                yield f"{order}tiles-{side}-{name}", tiff(tiles, tags, order)
            planes = [squeeze(pixels[..., c].tobytes()) for c in range(3)]
            yield f"{order}planes-{name}", tiff(planes, described(2, [8] * 3, planar=2, compression=compression), order)
            strips = [squeeze(pixels[top : top + 6, :, c].tobytes()) for c in range(3) for top in range(0, HEIGHT, 6)]
            yield f"{order}planes-strips-{name}", tiff(strips, described(2, [8] * 3, planar=2, compression=compression) | {278: ("H", [6])}, order)
            planes = [squeeze(six[..., c].tobytes()) for c in range(4)]
            yield f"{order}planes-RGBA-{name}", tiff(planes, described(2, [8] * 4, planar=2, extra=2, compression=compression), order)
            yield f"{order}planes-CMYK-{name}", tiff(planes, described(5, [8] * 4, planar=2, compression=compression), order)
    for bits in (1, 8):
        values = r.integers(0, 1 << bits, (HEIGHT, WIDTH))
        for compression in (1, 8):
            data = packed(values, bits)
            data = zlib.compress(data) if compression == 8 else data
            yield f"fill-order-2-{bits}-{compression}", tiff([data], described(1, [bits], fill_order=2, compression=compression))
    yield "one-value-for-all-bits", tiff([pixels.tobytes()], described(2, [8] * 3) | {258: ("H", [8])})
    yield "no-lengths", save(rgb).replace(struct.pack("<HH", 279, 4), struct.pack("<HH", 280, 4))
    whole, deflated = save(rgb), save(rgb, compression="tiff_adobe_deflate")
    for name, data in (("raw", tiff([pixels.tobytes()[:-300]], described(2, [8] * 3))), ("deflate", tiff([zlib.compress(pixels.tobytes())[:-200]], described(2, [8] * 3, compression=8)))):
        yield f"short-strip-{name}", data
    yield "cut", whole[: len(whole) // 2]
    yield "cut-deflate", deflated[: len(deflated) // 2]


UNSUPPORTED = ("8-bit-YCbCr", "8-bit-Lab")

if __name__ == "__main__":
    make_jpeg_goldens.main(__doc__, "tiff", files, UNSUPPORTED)
