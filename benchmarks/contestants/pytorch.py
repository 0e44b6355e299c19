"""PyTorch: to train and to predict, eager and compiled, in float32 and bfloat16; and frozen, to predict only.

Guides: "Performance Tuning Guide" (docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html: channels last,
zero_grad(set_to_none), inference_mode, fused optimizers); "MKLDNN backend" (docs.pytorch.org/docs/stable/notes/mkldnn.html:
`fp32_precision`); "Automatic Mixed Precision" (docs.pytorch.org/docs/stable/amp.html); the documentation of
`torch.jit.optimize_for_inference` and, of inductor's freezing, torch/_inductor/config.py.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from functools import partial

import torch
from nets import channels_first, channels_last, place
from torch import nn

torch._dynamo.config.recompile_limit = 64  # one graph for each batch size and number of threads
PLAIN = {"relu": nn.ReLU, "silu": nn.SiLU, "pool": partial(nn.MaxPool2d, 2), "flatten": nn.Flatten}


def layers(net):
    """The network's layers, as PyTorch's."""
    for kind, options, (h, w, c), _ in place(net):
        if kind == "conv":
            filters, kernel, stride, bias = options
            yield nn.Conv2d(c, filters, kernel, stride, padding=kernel // 2, bias=bias)
        elif kind == "depthwise":
            yield nn.Conv2d(c, c, options[0], padding=options[0] // 2, groups=c, bias=False)
        elif kind == "bn":
            yield nn.BatchNorm2d(c)
        elif kind == "gap":
            yield from (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        elif kind == "dense":
            yield nn.Linear(h * w * c, options[0])
        elif kind == "dropout":
            yield nn.Dropout(options[0])
        else:
            yield PLAIN[kind]()


class Torch:
    """nn.Sequential, channels first or last in memory, eager or compiled, its fused Adam.

    precision: None for float32; "autocast" for what PyTorch documents as mixed precision; "mkldnn" for float32 tensors whose
    products oneDNN may compute in bfloat16, which it does everywhere where the processor has AMX and else only in places.
    """

    def __init__(self, net, arrays, threads, nhwc=False, compiled=False, precision=None):
        torch.set_num_threads(threads)
        if precision == "mkldnn":
            torch.backends.mkldnn.conv.fp32_precision = "bf16"
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        lower = partial(torch.autocast, "cpu", torch.bfloat16)
        self.autocast = lower if precision == "autocast" else contextlib.nullcontext
        self.format = torch.channels_last if nhwc else torch.contiguous_format
        self.compile = partial(torch.compile, dynamic=False) if compiled else lambda module: module
        self.net = nn.Sequential(*layers(net))
        self.layers = list(place(net, arrays))
        self._load()
        self.net = self.net.to(memory_format=self.format)
        self.loss = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3, fused=True)

    def _load(self):
        own = [p for name, p in self.net.state_dict(keep_vars=True).items() if "num_batches" not in name]
        given = [channels_first(layer, array) for layer in self.layers for array in layer.arrays]
        with torch.no_grad():
            for p, array in zip(own, given, strict=True):
                p.copy_(torch.from_numpy(array))

    def use(self, threads):
        torch.set_num_threads(threads)

    def _images(self, x):
        return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=self.format)

    def _forward_loss(self, forward, images, labels):
        with self.autocast():
            logits = forward(images)
            return logits, self.loss(logits, labels)

    def gradients(self, x, y):
        logits, loss = self._forward_loss(self.compile(self.net), self._images(x), torch.from_numpy(y))
        loss.backward()
        learnt = [layer for layer in self.layers for _ in layer.arrays[:2]]  # of batch norm's four arrays, two
        gradients = [
            channels_last(layer, p.grad.numpy()) for layer, p in zip(learnt, self.net.parameters(), strict=True)
        ]
        return logits.detach().float().numpy(), loss.item(), gradients

    def training(self, x, y):
        images, labels = self._images(x), torch.from_numpy(y)
        self.net.train()
        forward = self.compile(self.net)

        def step():
            self.optimizer.zero_grad(set_to_none=True)
            self._forward_loss(forward, images, labels)[1].backward()
            self.optimizer.step()

        return step

    def inference(self, x, threads):
        images = self._images(x)
        forward = self.compile(copy.deepcopy(self.net).eval())

        @torch.inference_mode()
        def run():
            with self.autocast():
                return forward(images).float()

        return run


class Frozen(Torch):
    """A network that only predicts: weights are constants, batch norm is folded, weights are packed once.

    way: "jit" for torch.jit.optimize_for_inference, "inductor" for torch.compile with its freezing. Each takes channels
    last, as oneDNN's layouts and inductor's own choice of layout are of that kind.
    """

    training = gradients = None

    def __init__(self, net, arrays, threads, way, bfloat16=False):
        super().__init__(
            net, arrays, threads, nhwc=True, precision="autocast" if bfloat16 and way == "inductor" else None
        )
        self.way, self.dtype = way, torch.bfloat16 if bfloat16 and way == "jit" else torch.float32
        torch._inductor.config.freezing = True

    def inference(self, x, threads):
        images, net = self._images(x).to(self.dtype), copy.deepcopy(self.net).to(self.dtype).eval()
        if self.way == "inductor":
            forward = torch.compile(net, dynamic=False)
        else:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TorchScript is deprecated
                forward = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(net, images)))

        @torch.no_grad()
        def run():
            with self.autocast():
                return forward(images).float()

        return run
