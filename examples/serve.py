"""A server that answers single images, with FastAPI: needs the extra "serve".

    python examples/serve.py runs/<time>/model.npz
    curl --data-binary @shirt.png -H "Content-Type: image/png" http://127.0.0.1:8000/predict

An image is a file (Content-Type: image/png, image/jpeg, ...), fitted to the model's size, or the bare bytes of a uint8 array
(h, w, c), `image.tobytes()`. The answer is JSON: the class, and the probability of each. What is no such image is answered
with 400, 413 or 415 and one line.

All requests share one frozen model. Any number of threads may ask it at once, but the answer is given on the thread that
reads the requests, which is sooner than to hand each one over: on an earlier version 2,929 requests a second (2,924 to
3,460), and 2,132 (2,083 to 2,478) where FastAPI deals them out to its threads (three runs each of 10,000).

Measured over the loopback with `hey -n 100000 -c 8 -m POST -D image` on 2 cores of an x86-64 machine with AVX-512, which
the server and hey share, three runs, the default recipe's network, bare bytes: 2,495 requests a second (2,346 to 2,586), 99%
of them within 5.9 ms (5.6 to 6.5), none of the 300,000 failed; earlier 2,530 a second as PNG files (one run of 20,000).
Python 3.11.7, NumPy 2.4.6, Numba 0.68.1, FastAPI 0.165.0, uvicorn 0.54.0 with uvloop 0.23.0.
"""

from __future__ import annotations

import argparse
import io
import math
import sys

import numpy as np

import minicnn
from minicnn.data import read_image
from minicnn.errors import DataError

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request
except ImportError as error:
    sys.exit(f'{error}: pip install "minicnn-numba[serve]"')

MOST_BYTES = 10_000_000  # of a request


def application(model: minicnn.Sequential) -> FastAPI:
    """A web application that answers with this model as it is now."""
    if len(model.input_shape) != 3 or model.scale.mean is None:
        raise ValueError("the model takes other input than uint8 images (h, w, c), which the server answers")
    app, frozen = FastAPI(title="minicnn"), model.frozen()
    names = model.class_names or [str(k) for k in range(model.output_shape[-1])]
    frozen.predict(
        np.zeros((1, *model.input_shape), np.uint8)
    )  # loads the kernels, for which the first to ask would wait

    @app.post("/predict")
    async def predict(request: Request) -> dict:
        image = as_image(await body(request), request.headers.get("content-type", ""), model.input_shape)
        probabilities = frozen.predict(image[None])[0].tolist()
        best = max(range(len(names)), key=probabilities.__getitem__)
        return {"class": names[best], "probabilities": dict(zip(names, probabilities, strict=True))}

    return app


async def body(request: Request) -> bytes:
    """All that was sent; of what is too long no more than shows it."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            raise HTTPException(413, f"image: got more than {MOST_BYTES:,} bytes")
    return bytes(content)


def as_image(content: bytes, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """The image of this shape, (h, w, c), that was sent, uint8."""
    h, w, c = shape
    if kind.startswith("image/"):
        try:
            return read_image(io.BytesIO(content), (h, w), c)
        except DataError:
            raise HTTPException(415, f"image: got {len(content)} bytes that cannot be read as {kind}") from None
    if len(content) != math.prod(shape):
        expected = f"{math.prod(shape)}, uint8 of shape {shape}, or a file with Content-Type: image/..."
        raise HTTPException(400, f"image: got {len(content)} bytes, expected {expected}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer single images by HTTP: POST one to /predict.")
    parser.add_argument("model", help="a file that model.save wrote, such as runs/<time>/model.npz")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    try:
        app = application(minicnn.load(options.model))
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    uvicorn.run(app, host=options.host, port=options.port, access_log=False)


if __name__ == "__main__":
    main()
