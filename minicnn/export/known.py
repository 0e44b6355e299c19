"""What the writers ask of a model before they write it."""

from __future__ import annotations

from minicnn.layers.activations import Identity
from minicnn.layers.description import LAYERS
from minicnn.network import Network


def check_layers(model: Network) -> None:
    """TypeError for a layer of one's own: what it computes cannot be known."""
    for layer in model.all_layers():
        if type(layer) not in (*LAYERS.values(), Identity):
            raise TypeError(f"{layer.title}: got {type(layer).__name__}, expected one of minicnn's own layers")


def takes_bytes(model: Network) -> bool:
    """Whether the model was trained on uint8 images, which it standardises."""
    return model.scale.mean is not None
