"""ncnn: its text of layers and its file of weights, written here as ncnn's own tools would after folding batch norm.

Guides: "param and model file structure", "operators", "openmp best practice" (github.com/Tencent/ncnn/wiki): a thread a
core, the light mode, packed layouts, Winograd, which are all its defaults. ncnn takes one image at a time, so of 256 each
thread takes its part, one after another, on a network of its own: a quarter faster than both threads on each image.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import ncnn
import numpy as np
from nets import channels_first, place


def fold(net, arrays):
    """The layers with arrays (kernel, bias), batch norm inside the convolution before it.

    y = gamma * (w x - mean) / sqrt(variance + epsilon) + beta, so w and its bias are scaled channel by channel.
    """
    found = []
    for layer in place(net, arrays):
        if layer.kind == "bn":
            gamma, beta, mean, variance = layer.arrays
            scale = gamma / np.sqrt(variance + 1e-5)
            before = found[-1]
            w = before.arrays[0] * (scale[:, None] if before.kind == "depthwise" else scale)
            found[-1] = before._replace(arrays=[w, beta - mean * scale])
        elif layer.kind != "dropout":
            found.append(layer)
    return found


def describe(layer):
    """ncnn's name and parameters of a layer."""
    kind, options, (_, _, c), arrays = layer
    size = arrays[0].size if arrays else 0
    if kind in ("conv", "depthwise"):
        filters, kernel, stride = options[:3] if kind == "conv" else (c, options[0], 1)
        found = f"0={filters} 1={kernel} 3={stride} 4={kernel // 2} 5={len(arrays) - 1} 6={size}"
        return ("Convolution", found) if kind == "conv" else ("ConvolutionDepthWise", f"{found} 7={c}")
    plain = {"relu": ("ReLU", ""), "silu": ("Swish", ""), "flatten": ("Flatten", "")}
    pools = {"pool": ("Pooling", "0=0 1=2 2=2"), "gap": ("Pooling", "0=1 4=1")}
    return (plain | pools | {"dense": ("InnerProduct", f"0={options[0] if options else 0} 1=1 2={size}")})[kind]


def write(net, arrays, folder):
    """Write net.param and net.bin into the folder."""
    layers, lines, weights = fold(net, arrays), ["Input input 0 1 t0"], b""
    for i, layer in enumerate(layers):
        name, parameters = describe(layer)
        lines.append(f"{name} l{i} 1 1 t{i} t{i + 1} {parameters}")
        for j, array in enumerate(layer.arrays):
            tag = b"" if j else bytes(4)  # which says that float32 follows; a bias has none
            weights += tag + channels_first(layer, array).astype(np.float32).tobytes()
    with open(os.path.join(folder, "net.param"), "w") as file:
        file.write("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines]) + "\n")
    with open(os.path.join(folder, "net.bin"), "wb") as file:
        file.write(weights)
    return f"t{len(layers)}"


class NCNN:
    """ncnn's network, one image after another; bfloat16 is the type that it stores activations in."""

    def __init__(self, net, arrays, threads, bfloat16=False):
        self.net, self.arrays, self.bfloat16 = net, arrays, bfloat16

    def use(self, threads):
        """Each network keeps the number of threads it was made with."""

    def inference(self, x, threads):
        if len(x) == 1:
            return self._one_by_one(x, threads)
        parts = [self._one_by_one(part, 1) for part in np.array_split(x, threads)]
        pool = ThreadPoolExecutor(threads)
        return lambda: np.concatenate(list(pool.map(lambda run: run(), parts)))

    def _one_by_one(self, x, threads):
        made = ncnn.Net()
        made.opt.num_threads = threads
        made.opt.use_fp16_packed = made.opt.use_fp16_storage = made.opt.use_fp16_arithmetic = False
        made.opt.use_bf16_storage = made.opt.use_bf16_packed = self.bfloat16
        with tempfile.TemporaryDirectory() as folder:
            last = write(self.net, self.arrays, folder)
            if made.load_param(os.path.join(folder, "net.param")) or made.load_model(os.path.join(folder, "net.bin")):
                raise RuntimeError("ncnn does not take this network")
        first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))  # a Mat shares its memory until it is cloned
        placed = [ncnn.Mat(image).clone() for image in first]

        def one(image):
            extractor = made.create_extractor()
            extractor.input("t0", image)
            return extractor.extract(last)[1]

        return lambda: np.array([one(image) for image in placed])
