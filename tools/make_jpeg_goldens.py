#!/usr/bin/env python3
"""Write tests/golden/jpeg.bin and tests/golden/jpeg.jsonl: JPEG files of every kind and what Pillow makes of them.

    python make_jpeg_goldens.py            # write both files
    python make_jpeg_goldens.py --check    # make nothing, compare the installed Pillow with what is recorded

Needs Pillow 12.3 (with its libjpeg-turbo 3.1), numpy, and `cjpeg` and `jpegtran` of libjpeg-turbo on the path.

`jpeg.bin` is the files one after another.  A line of `jpeg.jsonl` has a file's name, its place (`offset`,
`bytes`), its size and the FNV-1a hash of the RGB bytes that the reference's `convert_to_rgb` gives, or
`"refused": true`.  Files come from three places: Pillow's encoder, cjpeg's, and `Frame` below, which writes
quantised coefficients as they are and so makes what no encoder offers: any sampling, any component ids, two to
four components, scans in any order.  jpegtran recodes some of all three as progressive or arithmetic.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

from make_resize_goldens import fnv1a64

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"

# Annex K of the standard: bits (codes of each length) and values of the usual tables.
DC_BITS, DC_VALUES = [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], list(range(12))
# One code of 8 bits for every (run, size) but the last, which shares its prefix with nothing: a plain table.
AC_BITS = [0] * 7 + [254] + [1] + [0] * 7
AC_VALUES = list(range(255))
LUMA_STEPS = np.array([
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51,
    56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99,
])


def codes(bits: list[int], values: list[int]) -> dict[int, tuple[int, int]]:
    """value -> (code, length) of a Huffman table."""
    table, code, at = {}, 0, 0
    for length, count in enumerate(bits, 1):
        for value in values[at : at + count]:
            table[value] = (code, length)
            code += 1
        at += count
        code <<= 1
    return table


DC_CODES, AC_CODES = codes(DC_BITS, DC_VALUES), codes(AC_BITS, AC_VALUES)


class Bits:
    """A bit string that is stuffed as entropy-coded data is."""

    def __init__(self) -> None:
        self.text: list[str] = []

    def put(self, value: int, length: int) -> None:
        if length:
            self.text.append(format(value, f"0{length}b"))

    def signed(self, value: int) -> None:
        length = abs(value).bit_length()
        self.put(value if value >= 0 else value + (1 << length) - 1, length)

    def bytes(self) -> bytes:
        text = "".join(self.text)
        text += "1" * (-len(text) % 8)
        return int(text or "0", 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")


def marker(code: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(data) + 2) + data


JFIF = marker(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform: int) -> bytes:
    return marker(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


class Frame:
    """A baseline file of random, smooth coefficients.

    sampling   [(h, v)] of each component
    head       markers in front (JFIF, Adobe, ...)
    ids        component ids
    restart    MCUs between restart markers
    scans      lists of components, one list a scan; `None`: all in one
    steps16    16-bit quantisation tables
    """

    def __init__(self, width, height, sampling, seed, head=JFIF, ids=None, restart=0, scans=None, steps16=False, quality=0.5):
        self.size, self.sampling, self.restart, self.head = (width, height), sampling, restart, head
        self.ids = ids or list(range(1, len(sampling) + 1))
        self.scans = scans or [list(range(len(sampling)))]
        self.random = np.random.default_rng(seed)
        self.steps = np.maximum(1, (LUMA_STEPS * quality * (8 if steps16 else 1)).astype(int))
        self.steps16 = steps16
        self.h_max, self.v_max = max(h for h, _ in sampling), max(v for _, v in sampling)
        self.mcus = (-(-width // (8 * self.h_max)), -(-height // (8 * self.v_max)))
        self.blocks = [self.coefficients(self.mcus[0] * h, self.mcus[1] * v) for h, v in sampling]

    def coefficients(self, across: int, down: int) -> np.ndarray:
        """[down, across, 64] in zigzag order."""
        r = self.random
        dc = np.cumsum(r.normal(0, 2.5, (down, across)), 1) + np.cumsum(r.normal(0, 2.5, (down, 1)), 0)
        dc = np.clip(dc * 30, -900, 900) / self.steps[0]
        spread = 120 / (1 + np.arange(64)) ** 1.1 / self.steps * 2
        ac = r.laplace(0, 1, (down, across, 64)) * spread * (r.random((down, across, 1)) < 0.8)
        ac[..., 0] = dc
        return np.clip(np.round(ac), -1023, 1023).astype(int)

    def block(self, bits: Bits, block: np.ndarray, last: int) -> int:
        dc = int(block[0])
        bits.put(*DC_CODES[abs(dc - last).bit_length()])
        bits.signed(dc - last)
        run = 0
        for value in map(int, block[1 : int(np.nonzero(np.append(1, block[1:]))[0][-1]) + 1]):
            if value == 0:
                run += 1
                continue
            while run > 15:
                bits.put(*AC_CODES[0xF0])
                run -= 16
            bits.put(*AC_CODES[run << 4 | abs(value).bit_length()])
            bits.signed(value)
            run = 0
        if not block[63]:
            bits.put(*AC_CODES[0])
        return dc

    def mcu_list(self, scan: list[int]):
        """[(component, row, column)] of each MCU of a scan."""
        if len(scan) == 1:
            (h, v), (width, height) = self.sampling[scan[0]], self.size
            across, down = (-(-(-(-side * f // top)) // 8) for side, f, top in ((width, h, self.h_max), (height, v, self.v_max)))
            return [[(scan[0], y, x)] for y in range(down) for x in range(across)]
        return [
            [(c, my * self.sampling[c][1] + y, mx * self.sampling[c][0] + x)
             for c in scan for y in range(self.sampling[c][1]) for x in range(self.sampling[c][0])]
            for my in range(self.mcus[1]) for mx in range(self.mcus[0])
        ]

    def scan(self, scan: list[int]) -> bytes:
        out = marker(0xDA, bytes([len(scan)]) + b"".join(bytes([self.ids[c], 0]) for c in scan) + bytes([0, 63, 0]))
        bits, last = Bits(), [0] * len(self.ids)
        for i, mcu in enumerate(self.mcu_list(scan)):
            if self.restart and i and i % self.restart == 0:
                out += bits.bytes() + bytes([0xFF, 0xD0 + (i // self.restart - 1) % 8])
                bits, last = Bits(), [0] * len(self.ids)
            for c, y, x in mcu:
                last[c] = self.block(bits, self.blocks[c][y, x], last[c])
        return out + bits.bytes()

    def bytes(self) -> bytes:
        steps = self.steps.astype(">u2" if self.steps16 else "u1").tobytes()
        frame = struct.pack(">BHHB", 8, self.size[1], self.size[0], len(self.ids))
        frame += b"".join(bytes([i, h << 4 | v, 0]) for i, (h, v) in zip(self.ids, self.sampling))
        return b"".join([
            b"\xff\xd8", self.head, marker(0xDB, bytes([0x10 if self.steps16 else 0]) + steps),
            marker(0xC1 if self.steps16 else 0xC0, frame),
            marker(0xC4, b"\0" + bytes(DC_BITS) + bytes(DC_VALUES)), marker(0xC4, b"\x10" + bytes(AC_BITS) + bytes(AC_VALUES)),
            marker(0xDD, struct.pack(">H", self.restart)) if self.restart else b"",
            *[self.scan(scan) for scan in self.scans], b"\xff\xd9",
        ])


def photo(width: int, height: int, seed: int, noise: float = 12) -> np.ndarray:
    """Smooth colour, a few hard edges and a little noise, bytes of shape (height, width, 3)."""
    r = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(width, height)
    planes = [128 + 90 * np.sin(r.uniform(1, 9) * x + r.uniform(1, 9) * y + r.uniform(0, 6)) for _ in range(3)]
    out = np.stack(planes, -1)
    for _ in range(4):
        cx, cy, radius = r.uniform(0, 1), r.uniform(0, 1), r.uniform(0.05, 0.3)
        out[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = r.uniform(0, 255, 3)
    return np.clip(out + r.normal(0, noise, out.shape), 0, 255).astype(np.uint8)


def save(picture: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", **options)
    return out.getvalue()


def tool(*command: str, data: bytes) -> bytes:
    """What cjpeg or jpegtran makes of a file; `{scans:TEXT}` in an argument becomes a file of that text."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as scans:
        arguments = []
        for argument in command:
            if argument.startswith("scans:"):
                scans.write(argument.removeprefix("scans:"))
                scans.flush()
                argument = scans.name
            arguments.append(argument)
        return subprocess.run(arguments, input=data, capture_output=True, check=True).stdout


def cjpeg(pixels: np.ndarray, *options: str) -> bytes:
    grey = pixels.ndim == 2
    head = f"P{5 if grey else 6} {pixels.shape[1]} {pixels.shape[0]} 255\n".encode()
    return tool("cjpeg", *options, data=head + pixels.tobytes())


def progressive(data: bytes) -> bytes:
    return tool("jpegtran", "-progressive", "-copy", "all", data=data)


def arithmetic(data: bytes) -> bytes:
    return tool("jpegtran", "-arithmetic", "-copy", "all", data=data)


def arithmetic_progressive(data: bytes) -> bytes:
    return tool("jpegtran", "-arithmetic", "-progressive", "-copy", "all", data=data)


def segment(data: bytes, code: int) -> tuple[int, int]:
    """Start and end of a file's first marker segment of this code."""
    at = 2
    while data[at + 1] != code:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at, at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def without(data: bytes, code: int) -> bytes:
    start, end = segment(data, code)
    return data[:start] + data[end:]


def after_soi(data: bytes, extra: bytes) -> bytes:
    return data[:2] + extra + data[2:]


SIZES = [(1, 1), (1, 9), (9, 1), (2, 2), (3, 40), (7, 5), (8, 8), (16, 16), (17, 15), (33, 31), (50, 64)]
ODD = [(1, 1), (2, 3), (5, 4), (17, 19), (39, 43)]
SAMPLINGS = {
    "444": [(1, 1)] * 3, "422": [(2, 1), (1, 1), (1, 1)], "440": [(1, 2), (1, 1), (1, 1)], "420": [(2, 2), (1, 1), (1, 1)],
    "411": [(4, 1), (1, 1), (1, 1)], "441": [(1, 4), (1, 1), (1, 1)], "410": [(4, 2), (1, 1), (1, 1)], "24": [(2, 4), (1, 1), (1, 1)],
    "3x1": [(3, 1), (1, 1), (1, 1)], "1x3": [(1, 3), (1, 1), (1, 1)], "luma-1x1-chroma-2x2": [(1, 1), (2, 2), (2, 2)],
    "luma-1x1-chroma-2x1": [(1, 1), (2, 1), (2, 1)], "luma-1x1-chroma-1x2": [(1, 1), (1, 2), (1, 2)], "luma-1x2-chroma-2x1": [(1, 2), (2, 1), (2, 1)],
    "luma-2x2-cb-2x1-cr-1x2": [(2, 2), (2, 1), (1, 2)], "luma-2x1-cb-1x1-cr-2x1": [(2, 1), (1, 1), (2, 1)], "luma-2x2-cb-2x2-cr-1x1": [(2, 2), (2, 2), (1, 1)],
    "all-2x2": [(2, 2)] * 3, "all-2x1": [(2, 1)] * 3, "luma-4x1-chroma-2x1": [(4, 1), (2, 1), (2, 1)], "luma-4x2-chroma-1x2": [(4, 2), (1, 1), (1, 1)],
    "luma-1x1-cb-3x1-cr-1x3": [(1, 1), (3, 1), (1, 3)], "luma-1x1-cb-1x4-cr-4x1": [(1, 1), (1, 4), (4, 1)],
}


def files():
    """Yields (name, bytes)."""
    for i, (width, height) in enumerate(SIZES):
        rgb = Image.fromarray(photo(width, height, i))
        for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
            name = f"pillow-{subsampling.replace(':', '')}-{width}x{height}"
            yield name, save(rgb, quality=60 + 4 * i, subsampling=subsampling)
            yield f"{name}-progressive", save(rgb, quality=95 - 4 * i, subsampling=subsampling, progressive=True)
        yield f"pillow-grey-{width}x{height}", save(rgb.convert("L"), quality=85)
        cmyk = Image.fromarray(np.dstack([photo(width, height, 50 + i), photo(width, height, 90 + i)[..., 0]]), "CMYK")
        cmyk_jpeg = save(cmyk, quality=80)
        yield f"pillow-cmyk-{width}x{height}", cmyk_jpeg
        yield f"pillow-ycck-{width}x{height}", cmyk_jpeg[: (at := segment(cmyk_jpeg, 0xEE)[1]) - 1] + b"\2" + cmyk_jpeg[at:]
    grey = photo(45, 37, 3)[..., 1]
    yield "grey-progressive", cjpeg(grey, "-progressive")
    yield "grey-arithmetic", cjpeg(grey, "-arithmetic")
    yield "grey-restart", cjpeg(grey, "-restart", "2B")
    yield "pillow-keep-rgb", save(Image.fromarray(photo(40, 30, 5)), keep_rgb=True)
    yield "pillow-keep-rgb-progressive", save(Image.fromarray(photo(40, 30, 6)), keep_rgb=True, progressive=True)
    yield "pillow-restart-blocks", save(Image.fromarray(photo(70, 50, 7)), restart_marker_blocks=3)
    yield "pillow-quality-1", save(Image.fromarray(photo(60, 44, 8)), quality=1)
    yield "pillow-quality-100", save(Image.fromarray(photo(60, 44, 8)), quality=100, subsampling="4:2:0")

    pixels = photo(47, 35, 11)
    for sample in ("1x1", "2x1", "1x2", "2x2", "4x1", "4x2", "1x1,2x2,2x2", "1x1,2x1,1x2", "2x2,1x1,2x2"):
        plain = cjpeg(pixels, "-quality", "88", "-sample", sample)
        yield f"cjpeg-{sample}", plain
        yield f"cjpeg-{sample}-noninterleaved", cjpeg(pixels, "-quality", "88", "-sample", sample, "-scans", "scans:0;1;2;")
        yield f"cjpeg-{sample}-y-then-chroma", cjpeg(pixels, "-quality", "88", "-sample", sample, "-scans", "scans:0;1 2;")
        yield f"cjpeg-{sample}-progressive", progressive(plain)
        yield f"cjpeg-{sample}-arithmetic", arithmetic(plain)
        yield f"cjpeg-{sample}-arithmetic-progressive", arithmetic_progressive(plain)
    yield "cjpeg-rgb", cjpeg(pixels, "-rgb")
    yield "cjpeg-rgb-arithmetic", cjpeg(pixels, "-rgb", "-arithmetic")
    for quality in ("1", "3", "10"):
        yield f"cjpeg-16-bit-steps-q{quality}", cjpeg(photo(90, 61, 12), "-quality", quality)
    yield "cjpeg-restart-1-row", cjpeg(pixels, "-restart", "1", "-sample", "2x2")
    yield "cjpeg-restart-1-block", cjpeg(pixels, "-restart", "1B", "-sample", "2x1")
    yield "cjpeg-restart-progressive", cjpeg(pixels, "-restart", "2B", "-progressive")
    yield "cjpeg-restart-arithmetic", cjpeg(pixels, "-restart", "3B", "-arithmetic")
    yield "cjpeg-restart-arithmetic-progressive", cjpeg(pixels, "-restart", "3B", "-arithmetic", "-progressive")
    # Progressive scripts: spectral selection alone, and scans that leave part of the coefficients out.
    spectral = "scans:0,1,2: 0-0, 0, 0; 0: 1-5, 0, 0; 2: 1-63, 0, 0; 1: 1-63, 0, 0; 0: 6-63, 0, 0;"
    yield "progressive-spectral", cjpeg(pixels, "-scans", spectral)
    for name, script in {
        "dc-only": "0,1,2: 0-0, 0, 0;",
        "dc-only-coarse": "0,1,2: 0-0, 0, 1;",
        "dc-only-luma-first": "0: 0-0, 0, 0; 1,2: 0-0, 0, 0;",
        "few-ac": "0,1,2: 0-0, 0, 1; 0: 1-5, 0, 2; 2: 1-63, 0, 1; 1: 1-63, 0, 1; 0,1,2: 0-0, 1, 0;",
        "no-refinement": "0,1,2: 0-0, 0, 0; 0: 1-63, 0, 3; 1: 1-9, 0, 2;",
        "luma-ac-only": "0,1,2: 0-0, 0, 0; 0: 1-63, 0, 0;",
    }.items():
        for size in ((1, 1), (47, 35), (90, 61)):
            yield f"progressive-incomplete-{name}-{size[0]}x{size[1]}", cjpeg(photo(*size, 13), "-scans", f"scans:{script}")

    for i, (name, sampling) in enumerate(SAMPLINGS.items()):
        one_scan = sum(h * v for h, v in sampling) <= 10  # more blocks may not be in one unit
        for k, (width, height) in enumerate(ODD):
            name_k, seed = f"frame-{name}-{width}x{height}", 1000 * i + k
            scans = [[0], [1], [2]] if k % 2 else [[2], [0], [1]]
            yield f"{name_k}-noninterleaved", Frame(width, height, sampling, seed, scans=scans, restart=k, quality=0.6).bytes()
            if one_scan:
                data = Frame(width, height, sampling, seed, quality=0.6).bytes()
                yield name_k, data
                if k == 3:
                    yield f"{name_k}-arithmetic", arithmetic(data)
                if k >= 3:
                    yield f"{name_k}-progressive", progressive(data)
    four = [[(1, 1)] * 4, [(2, 2), (1, 1), (1, 1), (2, 2)], [(2, 1), (1, 1), (1, 1), (2, 1)], [(1, 1), (2, 1), (2, 1), (1, 1)], [(1, 2), (1, 1), (1, 1), (1, 2)]]
    for i, sampling in enumerate(four):
        for name, head in {"adobe-0": adobe(0), "adobe-2": adobe(2), "adobe-1": adobe(1), "no-adobe": b"", "jfif": JFIF}.items():
            frame = Frame(23, 21, sampling, 5000 + i, head=head)
            yield f"frame-4-{i}-{name}", frame.bytes()
            if head in (adobe(0), adobe(2)):
                yield f"frame-4-{i}-{name}-progressive", progressive(frame.bytes())
                yield f"frame-4-{i}-{name}-arithmetic", arithmetic(frame.bytes())
                yield f"frame-4-{i}-{name}-noninterleaved", Frame(23, 21, sampling, 5000 + i, head=head, scans=[[3], [1, 2], [0]]).bytes()
    # What the three components are: ids and markers.
    for ids in ([1, 2, 3], [0, 1, 2], [82, 71, 66], [114, 103, 98], [34, 35, 36], [7, 200, 9]):
        for name, head in {
            "jfif": JFIF, "bare": b"", "adobe-0": adobe(0), "adobe-1": adobe(1), "adobe-2": adobe(2), "adobe-9": adobe(9),
            "jfif-adobe-0": JFIF + adobe(0), "adobe-0-jfif": adobe(0) + JFIF,
        }.items():
            yield f"ids-{'-'.join(map(str, ids))}-{name}", Frame(11, 10, SAMPLINGS["444"], 7, head=head, ids=ids).bytes()
    yield "ids-R-G-B-420-bare", Frame(21, 18, SAMPLINGS["420"], 8, head=b"", ids=[82, 71, 66]).bytes()
    yield "grey-2x2-sampling", Frame(21, 18, [(2, 2)], 9).bytes()
    yield "grey-1x2-sampling-odd-id", Frame(33, 9, [(1, 2)], 9, ids=[77]).bytes()
    yield "two-components", Frame(21, 18, [(1, 1)] * 2, 10).bytes()
    yield "five-components", Frame(21, 18, [(1, 1)] * 5, 10).bytes()
    yield "fractional-sampling", Frame(21, 18, [(3, 1), (2, 1), (1, 1)], 10).bytes()
    yield "eleven-blocks-a-unit", Frame(40, 40, [(4, 2), (2, 1), (1, 1)], 10).bytes()
    yield "16-bit-steps", Frame(50, 41, SAMPLINGS["420"], 11, steps16=True).bytes()
    yield "restart-every-unit", Frame(50, 41, SAMPLINGS["420"], 12, restart=1).bytes()

    # Odd, but read: what surrounds the frame.
    plain = Frame(19, 23, SAMPLINGS["420"], 30).bytes()
    at = segment(plain, 0xC0)[0]
    yield "trailing-bytes", plain + b"after the end" * 9
    yield "fill-bytes-before-markers", plain[:at] + b"\xff\xff\xff" + plain[at:]
    yield "junk-between-markers", plain[:at] + b"\x00\x11\x22" + plain[at:]
    yield "comment-and-icc", after_soi(plain, marker(0xFE, b"a comment") + marker(0xE2, b"ICC_PROFILE\0\1\1" + bytes(128)))
    for orientation in range(1, 10):
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1" + struct.pack(">HH", orientation, 0) + b"\0\0\0\0"
        yield f"exif-orientation-{orientation}", after_soi(without(plain, 0xE0), marker(0xE1, exif))
    little = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\x01\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
    yield "exif-orientation-little-endian", after_soi(plain, marker(0xE1, little))
    mpo = io.BytesIO()
    Image.fromarray(photo(30, 20, 40)).save(mpo, "MPO", save_all=True, append_images=[Image.fromarray(photo(30, 20, 41))])
    yield "multi-picture", mpo.getvalue()

    # Damaged.
    for name, whole in {
        "baseline": plain, "progressive": progressive(plain), "arithmetic": arithmetic(plain),
        "arithmetic-progressive": arithmetic_progressive(plain), "noninterleaved": Frame(19, 23, SAMPLINGS["444"], 31, scans=[[0], [1], [2]]).bytes(),
        "restart": Frame(40, 23, SAMPLINGS["420"], 32, restart=1).bytes(), "cmyk": Frame(19, 23, [(1, 1)] * 4, 33, head=adobe(2)).bytes(),
    }.items():
        for part in (30, 60, 90, 97):
            cut = whole[: len(whole) * part // 100]
            yield f"cut-{name}-to-{part}-percent", cut
            if part == 60:
                yield f"cut-{name}-to-{part}-percent-and-ended", cut + b"\xff\xd9"
        yield f"cut-{name}-without-end", whole[:-2]
        yield f"cut-{name}-in-the-end", whole[:-1]
    restart = Frame(64, 40, SAMPLINGS["420"], 34, restart=2).bytes()
    yield "restart-markers-swapped", restart.replace(b"\xff\xd1", b"\xff\xd5")
    yield "restart-marker-missing", restart.replace(b"\xff\xd1", b"", 1)
    start, end = segment(plain, 0xDB)
    yield "no-quantisation-table", without(plain, 0xDB)
    yield "no-huffman-table", without(plain, 0xC4)
    yield "twelve-bits", plain[: at + 4] + b"\x0c" + plain[at + 5 :]
    yield "zero-height", plain[: at + 5] + b"\0\0" + plain[at + 7 :]
    yield "two-frames", plain[:at] + plain[at : segment(plain, 0xC0)[1]] * 2 + plain[segment(plain, 0xC0)[1] :]
    yield "no-start", plain[2:]

    big = photo(4000, 3000, 60, noise=0)
    smooth = np.asarray(Image.fromarray(big).resize((250, 188)).resize((4000, 3000), Image.Resampling.BICUBIC))
    yield "big-4000x3000-progressive", progressive(cjpeg(smooth, "-quality", "35", "-sample", "2x2"))
    yield "big-4000x3000-arithmetic", cjpeg(smooth, "-quality", "40", "-sample", "2x1", "-arithmetic")
    yield "big-4000x3000-baseline", cjpeg(smooth, "-quality", "30", "-sample", "2x2", "-optimize")
    yield "wide-20000x16", cjpeg(np.tile(photo(400, 16, 61), (1, 50, 1)), "-arithmetic", "-quality", "40")
    yield "high-16x20000", cjpeg(np.tile(photo(16, 400, 62), (50, 1, 1)), "-progressive", "-quality", "40")


def reference(data: bytes) -> dict:
    """What Pillow and transformers' `convert_to_rgb` make of a file, and turned as its EXIF data say."""
    try:
        picture = Image.open(io.BytesIO(data))
        rgb = convert_to_rgb(picture)
        turned = ImageOps.exif_transpose(picture)
    except Exception:
        return {"refused": True}
    row = {"width": rgb.width, "height": rgb.height, "hash": fnv1a64(rgb.tobytes())}
    return row if turned.tobytes() == picture.tobytes() and turned.size == picture.size else row | {"turned": fnv1a64(convert_to_rgb(turned).tobytes())}


def convert_to_rgb(picture: Image.Image) -> Image.Image:
    """`transformers.image_transforms.convert_to_rgb`."""
    if "A" not in picture.getbands() and picture.info.get("transparency") is None:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, (255,) * 4), picture).convert("RGB")


def write(name: str, files, unsupported: tuple[str, ...]) -> None:
    assert PIL.__version__.startswith("12.3"), f"the reference is Pillow 12.3, this is {PIL.__version__}"
    packed, rows = bytearray(), []
    for file, data in files():
        row = {"name": file, "offset": len(packed), "bytes": len(data)} | reference(data)
        rows.append(row | {"unsupported": True} if file in unsupported and "refused" not in row else row)
        packed += data
    assert len({row["name"] for row in rows}) == len(rows)
    (GOLDEN / f"{name}.bin").write_bytes(packed)
    (GOLDEN / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused = [row["name"] for row in rows if "refused" in row]
    print(f"{len(rows)} files, {len(packed)} bytes, {len(refused)} refused: {', '.join(refused)}")


def check(name: str) -> None:
    packed = (GOLDEN / f"{name}.bin").read_bytes()
    rows = [json.loads(line) for line in (GOLDEN / f"{name}.jsonl").read_text().splitlines()]
    recorded = ("name", "offset", "bytes", "unsupported")
    wrong = []
    for row in rows:
        data = packed[row["offset"] : row["offset"] + row["bytes"]]
        if {field: row[field] for field in recorded if field in row} | reference(data) != row:
            wrong.append(row["name"])
    print(f"Pillow {PIL.__version__}: {len(rows) - len(wrong)} of {len(rows)} as recorded", *wrong, sep="\n")
    raise SystemExit(bool(wrong))


def main(description: str, name: str, files, unsupported: tuple[str, ...] = ()) -> None:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the installed Pillow with the files")
    check(name) if parser.parse_args().check else write(name, files, unsupported)


if __name__ == "__main__":
    main(__doc__, "jpeg", files)
