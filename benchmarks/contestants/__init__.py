"""The contestants of compare.py: which there are, of which precision, and with which settings.

A contestant is a class with `__init__(net, arrays, threads, **options)` and some of

    training(x, y)          a function that takes one step of Adam(1e-3) on these images and labels
    gradients(x, y)         (logits, loss, gradients in the order of the arrays), dropout being left out of its net
    inference(x, threads)   a function that computes the logits of these images, which lie there in the best layout
    use(threads)            called before such a function is timed

What `inference` cannot do with fewer threads than the process began with, says `threads_fixed = True`.

The settings are those that the libraries' own guides give, where measuring agreed. Of PyTorch's "Performance Tuning Guide"
(docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html): channels last, an allocator that keeps its memory, threads
bound to cores, Intel's OpenMP with KMP_BLOCKTIME=1. See `environment`, and each module for its library's guide.
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from pathlib import Path
from typing import NamedTuple

PRECISIONS = ("float32", "bfloat16")


class Entry(NamedTuple):
    """A contestant: the class of precision it runs in, what must be installed, module and class of the code, options."""

    precision: str
    library: str
    code: str
    options: dict


TORCH, FROZEN = "pytorch.Torch", "pytorch.Frozen"
CONTESTANTS = {
    "minicnn": Entry("float32", "minicnn", "ours.MiniCNN", {}),
    "minicnn-numpy": Entry("float32", "minicnn", "ours.MiniCNN", {"backend": "numpy"}),
    "torch-nchw": Entry("float32", "torch", TORCH, {}),
    "torch-nhwc": Entry("float32", "torch", TORCH, {"nhwc": True}),
    "torch-nchw-compile": Entry("float32", "torch", TORCH, {"compiled": True}),
    "torch-nhwc-compile": Entry("float32", "torch", TORCH, {"nhwc": True, "compiled": True}),
    "torch-optimized": Entry("float32", "torch", FROZEN, {"way": "jit"}),
    "torch-freezing": Entry("float32", "torch", FROZEN, {"way": "inductor"}),
    "tensorflow": Entry("float32", "tensorflow", "keras_tensorflow.TensorFlow", {}),
    "tensorflow-xla": Entry("float32", "tensorflow", "keras_tensorflow.TensorFlow", {"xla": True}),
    "jax": Entry("float32", "jax", "jax_optax.Jax", {}),
    "jax-onednn": Entry("float32", "jax", "jax_optax.Jax", {"onednn": True}),
    "onnxruntime": Entry("float32", "onnxruntime", "runtimes.OnnxRuntime", {}),
    "openvino-float32": Entry("float32", "openvino", "runtimes.OpenVINO", {"precision": "f32"}),
    "mnn": Entry("float32", "MNN", "runtimes.MNN", {}),
    "ncnn": Entry("float32", "ncnn", "ncnn_net.NCNN", {}),
    "minicnn-bfloat16": Entry("bfloat16", "minicnn", "ours.MiniCNN", {"precision": "bfloat16"}),
    "torch-nchw-autocast": Entry("bfloat16", "torch", TORCH, {"precision": "autocast"}),
    "torch-nhwc-autocast": Entry("bfloat16", "torch", TORCH, {"precision": "autocast", "nhwc": True}),
    "torch-nhwc-autocast-compile": Entry(
        "bfloat16", "torch", TORCH, {"precision": "autocast", "nhwc": True, "compiled": True}
    ),
    "torch-nhwc-mkldnn16": Entry("bfloat16", "torch", TORCH, {"precision": "mkldnn", "nhwc": True}),
    "torch-nhwc-mkldnn16-compile": Entry(
        "bfloat16", "torch", TORCH, {"precision": "mkldnn", "nhwc": True, "compiled": True}
    ),
    "torch-optimized-bfloat16": Entry("bfloat16", "torch", FROZEN, {"way": "jit", "bfloat16": True}),
    "torch-freezing-bfloat16": Entry("bfloat16", "torch", FROZEN, {"way": "inductor", "bfloat16": True}),
    "tensorflow-bfloat16": Entry("bfloat16", "tensorflow", "keras_tensorflow.TensorFlow", {"bfloat16": True}),
    "jax-bfloat16": Entry("bfloat16", "jax", "jax_optax.Jax", {"bfloat16": True}),
    "openvino": Entry("bfloat16", "openvino", "runtimes.OpenVINO", {}),
    "mnn-low": Entry("bfloat16", "MNN", "runtimes.MNN", {"precision": "low"}),
    "ncnn-bfloat16": Entry("bfloat16", "ncnn", "ncnn_net.NCNN", {"bfloat16": True}),
}


def environment(name: str, threads: int, cache: str) -> dict[str, str]:
    """The environment of a contestant's process: threads, allocator, and where compiled code is kept.

    By default glibc gives large blocks back to the system at once, and every step of PyTorch pays for getting them again:
    B's float32 step took 76 ms with that and 57 without. The guides' remedy is tcmalloc, which is preloaded where it is
    installed; elsewhere glibc is told to keep its memory, which measured the same. All contestants get it.
    """
    variables = dict.fromkeys(("OMP", "MKL", "OPENBLAS", "NUMBA"), str(threads))
    found = {f"{library}_NUM_THREADS": count for library, count in variables.items()}
    found |= {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**26)}
    found |= {"XDG_CACHE_HOME": cache, "TORCHINDUCTOR_CACHE_DIR": os.path.join(cache, "inductor")}
    if name.startswith("torch"):
        found |= {"KMP_BLOCKTIME": "1", "KMP_AFFINITY": "granularity=fine,compact,1,0"}
        found["LD_PRELOAD"] = ":".join(preloads())
    return found


def preloads() -> list[str]:
    """The libraries that PyTorch's guide says to preload, those that are here: Intel's OpenMP and tcmalloc."""
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"  # where the package intel-openmp puts it
    tcmalloc = ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")
    return [str(openmp)] * openmp.exists() + [tcmalloc] * bool(tcmalloc)
