"""The contestants of compare.py, each in a process of its own: build a network, take given weights, take steps.

A contestant has: weights(list of arrays, in Keras' order and shapes), gradients(x, y) -> (logits, loss, gradients in the
same order), train(x, y) one step of Adam(1e-3), infer(x) -> logits. Run as a program it reads commands, one JSON object a
line, and answers in the same way.
"""

from __future__ import annotations

import time

BEGIN = time.perf_counter()

import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
from functools import partial  # noqa: E402

import numpy as np  # noqa: E402
from nets import NETS  # noqa: E402

NAMES = (
    "minicnn",
    "minicnn-numpy",
    "torch-nchw",
    "torch-nhwc",
    "torch-nchw-compile",
    "torch-nhwc-compile",
    "tensorflow",
    "jax",
)


class MiniCNN:
    """This library; with backend "numpy" its readable half."""

    def __init__(self, layers, threads, backend="numba", dropout=True):
        import minicnn
        from minicnn import engine

        minicnn.use_backend(backend)
        minicnn.set_threads(threads)
        self.model = minicnn.Sequential(list(self.layers(minicnn, layers, dropout)))
        self.loss = engine.fast(minicnn.losses.CrossEntropy())
        self.optimizer = engine.fast(minicnn.optimizers.Adam(1e-3))

    @staticmethod
    def layers(m, layers, dropout):
        for kind, *options in layers:
            if kind == "conv":
                yield m.Conv2D(options[0], options[1], use_bias=options[2])
            elif kind == "dense":
                yield m.Dense(options[0])
            elif kind == "dropout":
                yield from [m.Dropout(options[0])] * dropout
            else:
                made = {"bn": m.BatchNorm, "relu": m.ReLU, "pool": m.MaxPool2D, "gap": m.GlobalAveragePool2D}
                yield (made | {"flatten": m.Flatten})[kind]()

    def weights(self, arrays):
        self.model.set_weights(arrays)

    def gradients(self, x, y):
        logits = self.model.forward(x, training=True).copy()
        loss, dlogits = self.loss(logits, y)
        self.model.backward(dlogits)
        learnt = [w for w in self.model.arrays().values() if hasattr(w, "grad")]
        return logits, loss, [w.grad.copy() for w in learnt]

    def train(self, x, y):
        _, dlogits = self.loss(self.model.forward(x, training=True), y)
        self.model.backward(dlogits)
        self.optimizer.step(self.model.parameters)

    def infer(self, x):
        return self.model.forward(x)


class Torch:
    """PyTorch, channels first or last in memory, eager or compiled, its fused Adam."""

    def __init__(self, layers, threads, nhwc=False, compiled=False, dropout=True):
        import torch

        self.torch = torch
        torch.set_num_threads(threads)
        self.format = torch.channels_last if nhwc else torch.contiguous_format
        self.net = torch.nn.Sequential(*self._layers(layers, dropout)).to(memory_format=self.format)
        self.forward = torch.compile(self.net) if compiled else self.net
        self.loss = torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3, fused=True)

    def _layers(self, layers, dropout):
        nn, channels, size = self.torch.nn, 1, 28
        for kind, *options in layers:
            if kind == "conv":
                filters, kernel, bias = options
                yield nn.Conv2d(channels, filters, kernel, padding=kernel // 2, bias=bias)
                channels = filters
            elif kind == "bn":
                yield nn.BatchNorm2d(channels)
            elif kind == "relu":
                yield nn.ReLU()
            elif kind == "pool":
                yield nn.MaxPool2d(2)
                size //= 2
            elif kind == "gap":
                yield from (nn.AdaptiveAvgPool2d(1), nn.Flatten())
            elif kind == "flatten":
                yield nn.Flatten()
                self.flattened = (size, channels)
                channels *= size * size
            elif kind == "dense":
                yield nn.Linear(channels, options[0])
                channels = options[0]
            elif kind == "dropout":
                yield from [nn.Dropout(options[0])] * dropout

    def _turn(self, array, first_dense):
        """From Keras' axes to PyTorch's: kernels (f, c, kh, kw), matrices (f, c), channels first where flattened."""
        if array.ndim == 4:
            return array.transpose(3, 2, 0, 1)
        if array.ndim == 2 and first_dense and hasattr(self, "flattened"):
            size, c = self.flattened
            return array.reshape(size, size, c, -1).transpose(3, 2, 0, 1).reshape(array.shape[1], -1)
        return array.T

    def _own(self):
        return [p for name, p in self.net.state_dict(keep_vars=True).items() if "num_batches" not in name]

    def weights(self, arrays):
        dense = 0
        with self.torch.no_grad():
            for p, array in zip(self._own(), arrays, strict=True):
                dense += array.ndim == 2
                p.copy_(self.torch.from_numpy(np.ascontiguousarray(self._turn(array, dense == 1))))

    def _images(self, x):
        return self.torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=self.format)

    def _data(self, x, y):
        if getattr(self, "of", None) is not x:  # converted once, not at every step
            self.of, self.data = x, (self._images(x), self.torch.from_numpy(y))
        return self.data

    def gradients(self, x, y):
        images, labels = self._data(x, y)
        logits = self.forward(images)
        loss = self.loss(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        turned, dense = [], 0
        for p in self.net.parameters():
            g = p.grad.numpy()
            dense += g.ndim == 2
            if g.ndim == 4:
                g = g.transpose(2, 3, 1, 0)
            elif g.ndim == 2 and dense == 1 and hasattr(self, "flattened"):
                size, c = self.flattened
                g = g.reshape(-1, c, size, size).transpose(2, 3, 1, 0).reshape(size * size * c, -1)
            else:
                g = g.T
            turned.append(np.array(g))
        return logits.detach().numpy(), loss.item(), turned

    def train(self, x, y):
        images, labels = self._data(x, y)
        self.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.forward(images), labels).backward()
        self.optimizer.step()

    def infer(self, x):
        if getattr(self, "of", None) is not x:
            self.of, self.data = x, (self._images(x), None)
        self.net.eval()
        with self.torch.inference_mode():
            return self.forward(self.data[0])


class TensorFlow:
    """Keras on TensorFlow, its training step traced into a graph."""

    def __init__(self, layers, threads, dropout=True):
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        os.environ["KERAS_BACKEND"] = "tensorflow"
        import tensorflow as tf

        self.tf = tf
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self.net = tf.keras.Sequential([tf.keras.Input((28, 28, 1)), *self._layers(layers, dropout)])
        self.loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.optimizer = tf.keras.optimizers.Adam(1e-3)
        self.optimizer.build(self.net.trainable_variables)
        self.step, self.forward = tf.function(self._step), tf.function(lambda x: self.net(x, training=False))

    def _layers(self, layers, dropout):
        k = self.tf.keras.layers
        for kind, *options in layers:
            if kind == "conv":
                yield k.Conv2D(options[0], options[1], padding="same", use_bias=options[2])
            elif kind == "dense":
                yield k.Dense(options[0])
            elif kind == "dropout":
                yield from [k.Dropout(options[0])] * dropout
            elif kind == "bn":
                yield k.BatchNormalization(momentum=0.9, epsilon=1e-5)
            else:
                made = {"relu": k.ReLU, "pool": k.MaxPool2D, "gap": k.GlobalAveragePooling2D, "flatten": k.Flatten}
                yield made[kind]()

    def weights(self, arrays):
        self.net.set_weights(arrays)

    def _tape(self, x, y):
        with self.tf.GradientTape() as tape:
            logits = self.net(x, training=True)
            loss = self.loss(y, logits)
        return logits, loss, tape.gradient(loss, self.net.trainable_variables)

    def _step(self, x, y):
        self.optimizer.apply(self._tape(x, y)[2], self.net.trainable_variables)

    def _data(self, *arrays):
        if getattr(self, "of", None) is not arrays[0]:
            self.of, self.data = arrays[0], [self.tf.constant(a) for a in arrays]
        return self.data

    def gradients(self, x, y):
        logits, loss, gradients = self._tape(*self._data(x, y))
        return logits.numpy(), float(loss), [g.numpy() for g in gradients]

    def train(self, x, y):
        self.step(*self._data(x, y))

    def infer(self, x):
        return self.forward(self._data(x)[0]).numpy()


class Jax:
    """JAX and Optax, the whole training step compiled; layers written with jax.lax, as Flax's are."""

    def __init__(self, layers, threads, dropout=True):
        os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
        import jax
        import optax

        self.jax, self.layers = jax, [layer for layer in layers if dropout or layer[0] != "dropout"]
        self.optimizer = optax.adam(1e-3)
        self.key = jax.random.PRNGKey(0)
        self.grad = jax.value_and_grad(self._loss, has_aux=True)
        self.step = jax.jit(self._step, donate_argnums=(0, 1))
        self.forward = jax.jit(lambda w, s, x: self._apply(w, s, x, None)[0])
        self.gradient = jax.jit(self.grad)

    def weights(self, arrays):
        self.w, self.running, rest = [], [], list(arrays)
        for kind, *options in self.layers:
            count = {"conv": 1 + (kind == "conv" and options[-1]), "bn": 2, "dense": 2}.get(kind, 0)
            self.w += [self.jax.numpy.asarray(rest.pop(0)) for _ in range(count)]
            if kind == "bn":
                self.running += [self.jax.numpy.asarray(rest.pop(0)) for _ in range(2)]
        self.state = self.optimizer.init(self.w)

    def _apply(self, weights, running, x, key):
        lax, np_, w, r, new = self.jax.lax, self.jax.numpy, list(weights), list(running), []
        for kind, *options in self.layers:
            if kind == "conv":
                x = lax.conv_general_dilated(x, w.pop(0), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
                x = x + w.pop(0) if options[2] else x
            elif kind == "bn":
                gamma, beta, mean, var = w.pop(0), w.pop(0), r.pop(0), r.pop(0)
                if key is not None:
                    m, v = x.mean((0, 1, 2)), x.var((0, 1, 2))
                    new += [0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v]
                    mean, var = m, v
                x = gamma * (x - mean) * lax.rsqrt(var + 1e-5) + beta
            elif kind == "relu":
                x = np_.maximum(x, 0)
            elif kind == "pool":
                x = lax.reduce_window(x, -np_.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
            elif kind == "gap":
                x = x.mean((1, 2))
            elif kind == "flatten":
                x = x.reshape(len(x), -1)
            elif kind == "dense":
                x = x @ w.pop(0) + w.pop(0)
            elif kind == "dropout" and key is not None:
                key, now = self.jax.random.split(key)
                x = np_.where(self.jax.random.bernoulli(now, 1 - options[0], x.shape), x / (1 - options[0]), 0)
        return x, new

    def _loss(self, weights, running, x, y, key):
        logits, new = self._apply(weights, running, x, key)
        picked = self.jax.nn.log_softmax(logits)[self.jax.numpy.arange(len(y)), y]
        return -picked.mean(), (logits, new)

    def _step(self, weights, state, running, x, y, key):
        key, now = self.jax.random.split(key)
        (_, (_, running)), gradients = self.grad(weights, running, x, y, now)
        updates, state = self.optimizer.update(gradients, state)
        return [a + b for a, b in zip(weights, updates, strict=True)], state, running, key

    def gradients(self, x, y):
        (loss, (logits, _)), gradients = self.gradient(self.w, self.running, x, y, self.key)
        return np.asarray(logits), float(loss), [np.asarray(g) for g in gradients]

    def train(self, x, y):
        made = self.step(self.w, self.state, self.running, x, y, self.key)
        self.w, self.state, self.running, self.key = self.jax.block_until_ready(made)

    def infer(self, x):
        return np.asarray(self.forward(self.w, self.running, x))


def make(name, layers, threads, dropout):
    """The contestant of that name."""
    if name.startswith("minicnn"):
        return MiniCNN(layers, threads, "numpy" if name.endswith("numpy") else "numba", dropout)
    if name.startswith("torch"):
        return Torch(layers, threads, "nhwc" in name, "compile" in name, dropout)
    return {"tensorflow": TensorFlow, "jax": Jax}[name](layers, threads, dropout)


def timed(action, seconds):
    """The median time of as many calls as fit into so many seconds, at least three."""
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def peak_memory() -> int:
    """The most memory this process has held, in bytes. Linux's own figure for it: getrusage inherits the parent's."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def setup(command: dict, name: str, threads: int):
    """(contestant, images, labels, many images, times): its first step, and then the check of what it computes."""
    start = time.perf_counter()
    importlib.import_module(name.split("-")[0])
    imported = time.perf_counter() - start
    data = np.load(command["data"])
    arrays = [data[f"w{i}"] for i in range(command["arrays"])]
    x, y, many = data["x"], data["y"], data["many"]
    layers = NETS[command["net"]][0]
    contestant = make(name, layers, threads, dropout=True)
    contestant.weights(arrays)
    contestant.train(x, y)
    times = {"import": imported, "first_step": time.perf_counter() - BEGIN}
    if command["answer"]:
        checked = make(name, layers, threads, dropout=False)
        checked.weights(arrays)
        logits, loss, gradients = checked.gradients(x, y)
        np.savez(command["answer"], logits=logits, loss=loss, **{f"g{i}": g for i, g in enumerate(gradients)})
    return contestant, x, y, many, times


def serve(name: str, threads: int) -> None:
    """Answer commands until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints must not mix with the answers
    for line in sys.stdin:
        command = json.loads(line)
        answer = {}
        if command["do"] == "setup":
            contestant, x, y, many, answer = setup(command, name, threads)
            for _ in range(3):
                contestant.train(x, y)
        elif command["do"] == "train":
            answer = {"seconds": timed(partial(contestant.train, x, y), command["seconds"])}
        elif command["do"] == "infer":
            contestant.infer(many)
            answer = {"seconds": timed(partial(contestant.infer, many), command["seconds"])}
        elif command["do"] == "peak":
            from minicnn import engine

            answer = {"flops": engine.measured_peak(np.float32)}
        elif command["do"] == "memory":
            answer = {"bytes": peak_memory()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
