"""Names that users of Keras and PyTorch type: the error tells ours, and ours exist."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import minicnn
from minicnn import BatchNorm, Conv2D, Dense, Dropout, Flatten, Layer, LeakyReLU, MaxPool2D, Sequential, names
from minicnn import callbacks as cb
from minicnn.losses import CrossEntropy
from minicnn.optimizers import SGD, Adam

README = Path(__file__).parents[1] / "README.md"


def net():
    return Sequential([Flatten(), Dense(3)], (2, 2, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Conv2D(8, 3, strides=2), "Conv2D: got strides=..., here it is stride"),
        (lambda: Conv2D(8, 3, dilation_rate=2), "Conv2D: got dilation_rate=..., here it is dilation"),
        (lambda: Conv2D(out_channels=8, kernel_size=3), "Conv2D: got out_channels=..., here it is filters"),
        (lambda: Conv2D(8, 3, kernel_regularizer="l2"), f"Conv2D: got kernel_regularizer=...: {names.DECAY}"),
        (lambda: Dense(8, bias=False), "Dense: got bias=..., here it is use_bias"),
        (lambda: Dense(8, input_shape=(3,)), f"Dense: got input_shape=...: {names.SHAPES}"),
        (lambda: MaxPool2D(kernel_size=2), "MaxPool2D: got kernel_size=..., here it is pool_size"),
        (lambda: BatchNorm(eps=1e-3), "BatchNorm: got eps=..., here it is epsilon"),
        (lambda: Dropout(p=0.5), "Dropout: got p=..., here it is rate"),
        (lambda: LeakyReLU(alpha=0.1), "LeakyReLU: got alpha=..., here it is negative_slope"),
        (lambda: Adam(lr=1e-3), "Adam: got lr=..., here it is learning_rate"),
        (lambda: Adam(betas=(0.9, 0.99)), "Adam: got betas=...: two arguments, beta1 and beta2"),
        (lambda: SGD(decay=1e-4), f"SGD: got decay=...: {names.DECAY}"),
        (lambda: SGD(clipnorm=1.0), "SGD: got clipnorm=..., here it is clip_norm"),
        (lambda: CrossEntropy(from_logits=True), "CrossEntropy: got from_logits=...: the loss takes logits"),
        (lambda: cb.EarlyStopping(restore_best_weights=True), "EarlyStopping: got .*, here it is restore_best"),
        (lambda: cb.ModelCheckpoint(filepath="a"), "ModelCheckpoint: got filepath=..., here it is path"),
        (lambda: cb.EarlyStopping(mode="max"), "EarlyStopping: got mode=...: of an accuracy more is better"),
        (lambda: cb.LambdaCallback(on_batch_end=print), "LambdaCallback: got .*, here it is on_step_end"),
        (lambda: net().fit(0, 0, num_epochs=3), "fit: got num_epochs=..., here it is epochs"),
        (lambda: net().fit(0, 0, lr=3), "fit: got lr=...: give fit an optimizer"),
        (lambda: net().fit(0, 0, initial_epoch=3), "fit: got initial_epoch=...: with checkpoint="),
    ],
)  # fmt: skip
def test_an_argument_by_its_name_elsewhere_is_told_by_ours(call, message):
    with pytest.raises(TypeError, match=f"^{message.replace('(', '[(]').replace(')', '[)]')}"):
        call()


def test_a_model_that_is_called_names_what_it_can_be_asked():
    with pytest.raises(TypeError, match=r"^Sequential: got a call, here it is outputs .* or predict"):
        net()(1)


def test_other_unknown_arguments_are_pythons_matter():
    for call in (lambda: Dense(8, eps=1), lambda: Conv2D(8, 3, depth=1), lambda: net().fit(0, 0, strides=1)):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            call()


def test_a_layer_of_ones_own_may_have_any_argument():
    class Mine(Layer):
        def __init__(self, strides, **others):
            self.strides, self.others = strides, others

    assert Mine(strides=2, lr=3).others == {"lr": 3}
    assert copy.copy(Mine(1)).strides == 1
    assert pickle.loads(pickle.dumps(Conv2D(8, 3))).filters == 8


def test_signatures_are_those_of_the_constructors():
    assert list(inspect.signature(Dropout).parameters) == ["rate"]
    assert "validation_split" in inspect.signature(Sequential.fit).parameters


def test_names_of_classes_are_told_on_import_and_as_attributes():
    for import_ in ("from minicnn import MaxPooling2D", "import minicnn; minicnn.MaxPooling2D"):
        with pytest.raises(ImportError, match=r"^minicnn: got MaxPooling2D, here it is MaxPool2D$"):
            exec(import_, {})
    assert not hasattr(minicnn, "no_such_name")
    with pytest.raises(ImportError, match="cannot import name 'no_such_name'"):
        exec("from minicnn import no_such_name", {})


def test_names_of_methods_are_told():
    with pytest.raises(AttributeError, match=r"^Sequential: got compile: give fit the optimizer and the loss$"):
        net().compile(optimizer="adam")
    with pytest.raises(AttributeError, match="'Sequential' object has no attribute 'no_such_name'"):
        print(net().no_such_name)


def test_an_attribute_error_inside_a_property_is_told_as_what_it_is(monkeypatch):
    monkeypatch.setattr(Sequential, "macs", property(lambda self: [].inner))
    with pytest.raises(AttributeError, match="'list' object has no attribute 'inner'"):
        print(net().macs)


def found(name):
    thing = minicnn
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def test_the_names_that_are_told_exist_and_those_that_are_not_ours_do_not():
    things = [getattr(minicnn, name) for name in minicnn.__all__]
    things += [v for m in (minicnn.optimizers, minicnn.callbacks, minicnn.losses) for v in vars(m).values()]
    functions = [thing.__init__ for thing in things if inspect.isclass(thing)] + [Sequential.fit]
    ours = {name for function in functions for name in inspect.signature(function).parameters}
    assert {told for told in names.ARGUMENTS.values() if " " not in told} <= ours
    for told in (told for told in names.PUBLIC.values() if " " not in told):
        found(told)
    assert not {name for name in names.PUBLIC if name in vars(minicnn)}
    model = net()
    for told in (told for told in names.ATTRIBUTES.values() if " " not in told):
        getattr(model, told)
    assert not {name for name in names.ATTRIBUTES if name in dir(model)}


def test_the_readmes_table_for_translators_names_what_is_there():
    text = README.read_text(encoding="utf-8").split("| Keras | PyTorch | minicnn |\n")[1].split("\n\n")[0]
    rows = [row.strip("| ").split("|")[-1] for row in text.splitlines()[1:]]
    assert len(rows) > 15
    fit, model = inspect.signature(Sequential.fit).parameters, net()
    for code in (code for row in rows for code in re.findall("`([^`]+)`", row)):
        name = re.match(r"[\w.]+", code)[0].removeprefix("minicnn.")
        assert hasattr(model, name) or name in fit or name == "layer.trainable" or found(name), code


def test_matplotlib_comes_with_the_first_plot_and_not_before(tmp_path):
    code = "import sys, minicnn; assert 'matplotlib' not in sys.modules; minicnn.plots.curves"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_tells_a_constructors_arguments_and_an_objects_are_its_own():
    assert str(inspect.signature(LeakyReLU)).startswith("(negative_slope: ")
    assert list(inspect.signature(Conv2D).parameters)[:2] == ["filters", "kernel_size"]
    assert list(inspect.signature(CrossEntropy()).parameters)[:2] == ["outputs", "targets"]
