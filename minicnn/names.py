"""What Keras and PyTorch call the things that minicnn calls otherwise, so that an error can name ours.

A value is our name for it, or in a sentence what there is instead.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)

SHAPES = "layers find it out; that of the images is Sequential's argument input_shape"
DECAY = "weight decay is an argument of the optimizer, such as AdamW(weight_decay=0.01)"
ARGUMENTS = {
    **{"strides": "stride", "dilation_rate": "dilation", "bias": "use_bias", "kernel_size": "pool_size"},
    **{"out_channels": "filters", "out_features": "units", "p": "rate", "alpha": "negative_slope", "eps": "epsilon"},
    **dict.fromkeys(("in_channels", "in_features", "num_features", "input_dim", "input_shape"), SHAPES),
    **dict.fromkeys(("kernel_regularizer", "bias_regularizer", "weight_decay", "decay"), DECAY),
    "data_format": "images are always (n, h, w, c)",
    "trainable": "set it afterwards, layer.trainable = False",
    "learning_rate": "give fit an optimizer, such as optimizers.Adam(learning_rate=1e-3)",
    **{"lr": "learning_rate", "beta_1": "beta1", "beta_2": "beta2", "betas": "two arguments, beta1 and beta2"},
    **{"clipnorm": "clip_norm", "global_clipnorm": "clip_norm", "num_epochs": "epochs", "criterion": "loss"},
    **{"filepath": "path", "restore_best_weights": "restore_best", "on_batch_end": "on_step_end"},
    "mode": "of an accuracy more is better, of all else less",
    "metrics": "loss and accuracy are always told, and minicnn.metrics has others",
    "initial_epoch": "with checkpoint=minicnn.Checkpoint(path) the same call goes on where it was",
    "from_logits": "the loss takes logits, so leave out the last Softmax",
}
ATTRIBUTES = {  # of a model
    "compile": "give fit the optimizer and the loss",
    "add": "give Sequential a list of all layers",
    "train_on_batch": "give fit images, epochs and batch_size",
    **{"load_state_dict": "set_weights", "state_dict": "get_weights", "count_params": "parameter_count"},
    **dict.fromkeys(("train", "eval"), "fit trains and predict predicts, there is no mode to set"),
}
PUBLIC = {  # of the package
    **{"Conv2d": "Conv2D", "Linear": "Dense", "Dropout2d": "Dropout", "Add": "Residual", "load_model": "load"},
    **{"BatchNormalization": "BatchNorm", "BatchNorm2d": "BatchNorm", "Module": "Layer", "Model": "Sequential"},
    **dict.fromkeys(("MaxPooling2D", "MaxPool2d"), "MaxPool2D"),
    **dict.fromkeys(("AveragePooling2D", "AvgPool2d"), "AveragePool2D"),
    **dict.fromkeys(("GlobalAveragePooling2D", "AdaptiveAvgPool2d"), "GlobalAveragePool2D"),
    **{"GlobalMaxPooling2D": "GlobalMaxPool2D", "SeparableConv2D": "DepthwiseConv2D, then Conv2D of kernel_size 1"},
    **{"ImageDataGenerator": "Augment", "Input": "Sequential's argument input_shape"},
    **{name: f"optimizers.{name}" for name in ("Adam", "AdamW", "SGD", "RMSprop")},
    **{name: f"callbacks.{name}" for name in ("EarlyStopping", "ModelCheckpoint", "ReduceLROnPlateau")},
    "CrossEntropyLoss": "losses.CrossEntropy",
}


def told(what: str, ours: str) -> str:
    """One line that says what was asked for and what to ask for."""
    return f"{what}: {ours}" if " " in ours else f"{what}, here it is {ours}"


def check(title: str, function: Callable, given: Mapping[str, object]) -> None:
    """TypeError where an argument that the function does not have is in the table; others are left to Python."""
    for name in given.keys() & ARGUMENTS:
        known, ours = inspect.signature(function).parameters, ARGUMENTS[name]
        if any(parameter.kind == parameter.VAR_KEYWORD for parameter in known.values()):
            return
        ours = ours if " " in ours or ours in known else ARGUMENTS.get(ours, "")  # fit has no lr, and no learning_rate
        if name not in known and ours:
            raise TypeError(told(f"{title}: got {name}=...", ours))


class _Signature:
    """What `inspect` and `help` tell of a constructor: Python 3.10 would tell that of `Named.__new__`."""

    def __get__(self, instance, kind):
        if instance is not None:
            raise AttributeError("__signature__")
        return inspect.signature(functools.partial(kind.__init__, None))


class Named:
    """A class whose constructor tells our names for other libraries' arguments."""

    __signature__ = _Signature()

    def __new__(cls, *_, **given):
        check(cls.__name__, cls.__init__, given)
        return super().__new__(cls)


def named(function: Function) -> Function:
    """A function that does the same."""

    @functools.wraps(function)
    def checked(*args, **given):
        check(function.__name__, function, given)
        return function(*args, **given)

    return checked  # type: ignore[return-value]
