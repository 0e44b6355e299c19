"""Write a layer of one's own: derive its gradient, check it, use it.

Our layer is a smooth bend with a learnt temperature t for each channel, the swish of Ramachandran, Zoph and Le (2017):

    y = x * s(u),   u = t * x,   s(u) = 1 / (1 + exp(-u)),   s'(u) = s(u) * (1 - s(u))

The chain rule needs two derivatives. x appears twice, alone and within u, so the product rule gives

    dy/dx = s(u) + x * s'(u) * t          and          dy/dt = x * s'(u) * x

One t serves every pixel of its channel, and every one of them pulls at it: dt is the sum over images, rows and columns.

Run it: the layer's gradient is checked, a wrong one is caught, and a small network is trained with it.
"""

from __future__ import annotations

import numpy as np

from minicnn import Conv2D, Dense, GlobalAveragePool2D, Layer, Sequential, gradcheck, initializers, optimizers
from minicnn.data import load_fashion_mnist


class Swish(Layer):
    """y = x / (1 + exp(-t * x)), with one learnt t for each channel."""

    def build(self, input_shape, parameters):
        self.t = parameters.add("t", input_shape[-1:], initializers.ones)
        return input_shape  # shapes are without the batch: this layer keeps them

    def forward(self, x, training=False):
        s = 1 / (1 + np.exp(-self.t.value * x))
        if training:
            self.save_for_backward(x, s)
        return x * s

    def backward(self, dy):
        x, s = self.saved
        slope = s * (1 - s)
        self.t.grad[...] = (dy * x * slope * x).sum(axis=(0, 1, 2))
        return dy * (s + x * slope * self.t.value)


class WrongSwish(Swish):
    """The same with the mistake everybody makes once: x's second appearance is forgotten."""

    def backward(self, dy):
        super().backward(dy)
        _, s = self.saved
        return dy * s


def main() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 3))
    for layer in (Swish(), WrongSwish()):
        report = gradcheck(layer, x)
        print(f"{type(layer).__name__}: the gradient is {'correct' if report.ok else 'WRONG'}\n{report}\n")

    data = load_fashion_mnist("sample", verbose=False)
    model = Sequential(
        [Conv2D(16, 3, stride=2), Swish(), Conv2D(32, 3, stride=2), Swish(), GlobalAveragePool2D(), Dense(10)]
    )
    model.fit(data.train_images, data.train_labels, epochs=5, batch_size=32, optimizer=optimizers.Adam(5e-3))
    accuracy = model.evaluate(data.test_images, data.test_labels).accuracy
    print(
        f"accuracy on the sample's test images: {accuracy:.1%}; t of the first Swish: {model.layers[1].t.value.round(2)}"
    )


if __name__ == "__main__":
    main()
