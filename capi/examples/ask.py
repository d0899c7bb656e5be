#!/usr/bin/env python3
"""Asks a picture a question through the C interface, with what comes with Python.

From the repository's root:

  cargo build -p instructblip-capi --release
  python3 capi/examples/ask.py tests/shapes/samples/10.png "Can you count the things?"

prints

  2
  eos, 2 tokens
  red -10.5, blue -0.8

INSTRUCTBLIP_LIBRARY names another file than target/release/libinstructblip_c.so (.dylib, .dll)."""

import ctypes as c
import json
import os
import pathlib
import sys

ABI = 1
ON_TEXT = c.CFUNCTYPE(c.c_int, c.POINTER(c.c_char), c.c_size_t, c.c_void_p)
ON_PROGRESS = c.CFUNCTYPE(c.c_int, c.c_int, c.c_uint64, c.c_uint64, c.c_void_p)


class Load(c.Structure):
    _fields_ = [("path", c.c_char_p), ("files", c.c_void_p), ("file_count", c.c_size_t), ("adapter", c.c_char_p),
                ("options", c.c_char_p), ("on_progress", ON_PROGRESS), ("user", c.c_void_p)]


class Picture(c.Structure):
    _fields_ = [("data", c.c_char_p), ("length", c.c_size_t), ("width", c.c_uint32), ("height", c.c_uint32)]


class Question(c.Structure):
    _fields_ = [("pictures", c.POINTER(Picture)), ("picture_count", c.c_size_t), ("prompt", c.c_char_p),
                ("task", c.c_char_p), ("qformer_prompt", c.c_char_p), ("choices", c.POINTER(c.c_char_p)),
                ("choice_count", c.c_size_t), ("params", c.c_char_p), ("on_text", ON_TEXT), ("user", c.c_void_p),
                ("canceller", c.c_void_p)]


def library():
    """The library, whose functions know their arguments."""
    others = {"darwin": "libinstructblip_c.dylib", "win32": "instructblip_c.dll"}
    name = others.get(sys.platform, "libinstructblip_c.so")
    usual = pathlib.Path(__file__).parents[2] / "target" / "release" / name
    lib = c.CDLL(os.environ.get("INSTRUCTBLIP_LIBRARY", str(usual)))
    if lib.instructblip_abi_version() != ABI:
        sys.exit("the library has another interface than this program")
    lib.instructblip_last_error.restype = c.c_char_p
    lib.instructblip_open.argtypes = [c.POINTER(Load), c.POINTER(c.c_void_p)]
    for name in ("ask", "score"):
        getattr(lib, f"instructblip_{name}").argtypes = [c.c_void_p, c.POINTER(Question), c.POINTER(c.c_void_p)]
    lib.instructblip_text_free.argtypes = [c.c_void_p]
    lib.instructblip_text_free.restype = None
    lib.instructblip_close.argtypes = [c.c_void_p]
    lib.instructblip_close.restype = None
    return lib


class Model:
    """A model that answers. Python's other threads run meanwhile; any of them may ask, too."""

    def __init__(self, lib, path=None):
        self.lib, self.handle = lib, c.c_void_p()
        self.check(lib.instructblip_open(Load(path=path and os.fsencode(path)), self.handle))

    def check(self, status):
        if status:
            raise RuntimeError(f"{self.lib.instructblip_last_error().decode()} (status {status})")

    def ask(self, picture, prompt, hear, **params):
        """The reply; `hear` is called with each piece of its text."""
        on_text = ON_TEXT(lambda text, length, user: hear(c.string_at(text, length).decode()) or 0)
        return self.call("ask", picture, prompt, params=json.dumps(params).encode(), on_text=on_text)

    def score(self, picture, prompt, *choices):
        """The scores of choices."""
        texts = (c.c_char_p * len(choices))(*(choice.encode() for choice in choices))
        return self.call("score", picture, prompt, choices=texts, choice_count=len(choices))

    def call(self, name, picture, prompt, **fields):
        pictures, result = Picture(data=picture, length=len(picture)), c.c_void_p()
        question = Question(pictures=c.pointer(pictures), picture_count=1, prompt=prompt.encode(), **fields)
        self.check(getattr(self.lib, f"instructblip_{name}")(self.handle, question, result))
        try:
            return json.loads(c.string_at(result.value))
        finally:
            self.lib.instructblip_text_free(result)

    def close(self):
        self.lib.instructblip_close(self.handle)


def main():
    if len(sys.argv) < 3:
        sys.exit("usage: ask.py PICTURE QUESTION [FOLDER OF A MODEL]")
    model = Model(library(), *sys.argv[3:4])
    picture = pathlib.Path(sys.argv[1]).read_bytes()
    reply = model.ask(picture, sys.argv[2], lambda piece: print(piece, end="", flush=True), max_new_tokens=30)
    print(f"\n{reply['finish_reason']}, {len(reply['token_ids'])} tokens")
    scores = model.score(picture, "Which color is there?", "red", "blue")
    print(", ".join(f"{score['choice']} {score['mean_log_probability']:.1f}" for score in scores))
    model.close()


if __name__ == "__main__":
    main()
