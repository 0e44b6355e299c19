"""What is asked: the exercises in order, each with what is given, its three hints and its well-known mistakes.

The solution of an exercise is the library's own code, and stands nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from minicnn import losses, optimizers, training
from minicnn.layers import activations, convolution, dense, normalization, pooling, windows
from minicnn.learn import cases


class Exercise(NamedTuple):
    """One exercise. `owner` is the class or module whose `parts`, methods or one function, are to be written.

    `inputs` and `run` are those of cases.py, and `axes` says what the axes of each result are. `left_out` are the
    paragraphs of the docstring that give the answer away, by how they begin. `mistakes` are (old, new, sentence): an
    edit of the solution, and what to say to a student whose numbers are those of the edited one.
    """

    name: str
    task: str
    owner: type | ModuleType
    parts: tuple[str, ...]
    inputs: Callable[[], list[dict]]
    run: Callable[..., dict]
    axes: dict[str, str]
    given: str
    notes: str
    hints: tuple[str, str, str]
    left_out: tuple[str, ...] = ()
    mistakes: tuple[tuple[str, str, str], ...] = ()


IMAGE, WINDOWS = "image row column channel", "image row column kernel-row kernel-column channel"
KERNEL, OUTPUT = "kernel-row kernel-column channel filter", "image row column filter"

EXERCISES = [
    Exercise(
        name="dense_forward",
        task="a dense layer: every output sees every input",
        owner=dense.Dense,
        parts=("forward",),
        inputs=cases.dense_forward_inputs,
        run=cases.run_dense_forward,
        axes={"y": "image unit", "the x that is kept": "image channel"},
        given="from minicnn.layers import dense",
        notes="""
The weights are self.w.value and self.b.value. When training, keep x with self.save_for_backward(x).
There is always a bias and never an activation here.""",
        hints=(
            "y[n, u] is a sum over c. Which product of two arrays sums over their inner axis?",
            "x is (n, c) and w is (c, units): x @ w is (n, units). b is (units,): broadcasting adds it to every row.",
            "if training: self.save_for_backward(x); then the product plus the bias, in a new array.",
        ),
        left_out=("dw = ",),
    ),
    Exercise(
        name="dense_backward",
        task="its chain rule: dw, db and dx from dy",
        owner=dense.Dense,
        parts=("backward",),
        inputs=cases.dense_inputs,
        run=cases.run_dense_backward,
        axes={"dw": "channel unit", "db": "unit", "dx": "image channel"},
        given="from minicnn.layers import dense",
        notes="""
forward kept x: (x,) = self.saved. Write the gradients into the arrays that are there, self.w.grad[...] = ... and
self.b.grad[...] = ..., and return dx. There is always a bias and never an activation here.""",
        hints=(
            "Write y[n, u] as a sum. Which y does w[c, u] touch? Each sends back dy times what met w[c, u].",
            "dw[c, u] = sum over n of x[n, c] * dy[n, u]; dx[n, c] = sum over u of dy[n, u] * w[c, u]; db[u]: over n.",
            "A sum over n is a product with x.T on the left; a sum over u is one with w.T on the right.",
        ),
        left_out=("dw = ",),
        mistakes=(("dy.sum(axis=0)", "dy[0]", "only the first image's share: sum over the images"),),
    ),
    Exercise(
        name="relu",
        task="the bend, and its slope",
        owner=activations.ReLU,
        parts=("f", "derivative"),
        inputs=cases.relu_inputs,
        run=cases.run_relu,
        axes={},
        given="from minicnn.layers import activations",
        notes="""
The library's forward gives f(x), and its backward dy * derivative(x, y).""",
        hints=(
            "Draw the function: two straight lines that meet at 0. What is the slope of each?",
            "np.maximum works number by number; x.max() gives one number for the whole array.",
            "The derivative is 1 where y > 0 and 0 elsewhere, at 0 too: a comparison gives just that.",
        ),
        mistakes=(
            ("~(y <= 0)", "x >= 0", "at 0 the gate is shut: the slope there is 0"),
            ("~(y <= 0)", "y", "y is not the slope: where x is above 0 the slope is 1, however large x is"),
            ("~(y <= 0)", "np.ones_like(y)", "the slope is 1 everywhere: where x is below 0 nothing flows back"),
            ("~(y <= 0)", "np.sign(x)", "the sign of x is -1 below 0: the slope is 0 there"),
            ("np.maximum(x, 0)", "np.minimum(x, 0)", "that is the half below 0: y is the larger of x and 0"),
            ("np.maximum(x, 0)", "np.abs(x)", "that is |x|: below 0, y is 0"),
            ("np.maximum(x, 0)", "np.where(x > 0, x, 0.01 * x)", "that is the leaky one: below 0, y is 0"),
        ),
    ),
    Exercise(
        name="softmax_cross_entropy",
        task="how wrong the logits are, and where backpropagation begins",
        owner=losses.CrossEntropy,
        parts=("formula",),
        inputs=cases.cross_entropy_inputs,
        run=cases.run_cross_entropy,
        axes={"dlogits": "image class"},
        given="from minicnn import losses",
        notes="""
Return the pair (loss, dlogits). Logits may be as large as 1000, and exp(1000) is infinity.""",
        hints=(
            "softmax does not change when the same number is taken from all logits of a row: take the largest.",
            "log(softmax(x)) = x - log(sum(exp(x))). So no log of 0 can happen. Then derive by one logit.",
            "For one image the derivative is softmax - truth (truth sums to 1); the image's weight multiplies both.",
        ),
        left_out=("Softmax cross-entropy of", "Targets are", "dlogits ="),
        mistakes=(
            ("- truth)", ")", "the truth is missing: for one image, dlogits = softmax - truth"),
            ("return float(loss), weights * (np", "return float(loss), (np", "dlogits lacks the images' weights"),
            ("-(weights * truth", "-(truth", "the loss lacks the images' weights"),
            ("-(weights * truth", "-(1 / len(truth) * truth", "the loss is a mean: each image has a weight of its own"),
            (
                "return float(loss), weights * (np",
                "return float(loss), 1 / len(truth) * (np",
                "dlogits is divided by the number of images: each image has a weight of its own",
            ),
            (".sum(axis=1", ".sum(axis=0", "softmax sums over the classes of an image, axis 1, and not over images"),
        ),
    ),
    Exercise(
        name="windows",
        task="every window of an image, side by side (im2col)",
        owner=windows,
        parts=("windows",),
        inputs=lambda: cases.convolution_inputs("x", "fill"),
        run=cases.run_windows,
        axes={"windows": WINDOWS},
        given="from minicnn.layers.windows import Window",
        notes="""
A Window has size, stride and dilation, pairs (rows, columns), and padding ((top, bottom), (left, right)).
window.positions(x.shape[1:]) is (oh, ow). You may return an array instead of a view.""",
        hints=(
            "Pad first. Then it is only a matter of which pixel goes where: begin with loops over i and j.",
            "Two loops are enough, over rows and columns of the window: slices take that pixel of all windows at once.",
            "padded[:, p*dilation : p*dilation + stride*oh : stride, ...] are row p of all windows.",
        ),
    ),
    Exercise(
        name="convolution_forward",
        task="the same weights at every position",
        owner=convolution,
        parts=("convolve",),
        inputs=lambda: cases.convolution_inputs("x", "w"),
        run=cases.run_convolve,
        axes={"y": OUTPUT},
        given="from minicnn.layers.windows import Window, windows",
        notes="""
y[n, i, j, f] = sum over (p, q, c) of padded[n, i*stride + p*dilation, j*stride + q*dilation, c] * w[p, q, c, f].
windows(x, window) gives every window: (n, oh, ow, kh, kw, c). The bias comes later.""",
        hints=(
            "It is a dense layer on every window. What are its n, its c and its units?",
            "Lay each window out as a row: (n*oh*ow, kh*kw*c). Do the same with w, whose last axis is f.",
            "One product of the two matrices, then reshape to (n, oh, ow, f).",
        ),
    ),
    Exercise(
        name="convolution_db",
        task="what the bias receives",
        owner=convolution,
        parts=("convolve_db",),
        inputs=cases.db_inputs,
        run=cases.run_db,
        axes={"db": "filter"},
        given="",
        notes="""
y[n, i, j, f] = b[f] + ...""",
        hints=(
            "How much does y[n, i, j, f] change when b[f] grows by 1? For which n, i and j?",
            "b[f] is in every y[:, :, :, f] with factor 1, and contributions add.",
            "A sum over three of the four axes.",
        ),
        left_out=("So db",),
        mistakes=(
            ("(0, 1, 2)", "(1, 2, 3)", "summed over the wrong axes: the filters, axis 3, should still be there"),
            ("(0, 1, 2)", "(0, 1, 3)", "summed over the wrong axes: the filters, axis 3, should still be there"),
        ),
    ),
    Exercise(
        name="convolution_dw",
        task="what the weights receive",
        owner=convolution,
        parts=("convolve_dw",),
        inputs=lambda: cases.convolution_inputs("dy", "x"),
        run=cases.run_dw,
        axes={"dw": KERNEL},
        given="from minicnn.layers.windows import Window, windows",
        notes="""
windows(x, window) gives every window: (n, oh, ow, kh, kw, c).""",
        hints=(
            "w[p, q, c, f] was multiplied with pixel (p, q, c) of every window, and gave filter f. Who sums what?",
            "dw[p, q, c, f] = sum over (n, i, j) of windows[n, i, j, p, q, c] * dy[n, i, j, f].",
            "With windows as a matrix (n*oh*ow, kh*kw*c) and dy as (n*oh*ow, f), a sum over rows is matrix.T @ dy.",
        ),
        left_out=("dw = ",),
    ),
    Exercise(
        name="add_windows",
        task="windows' gradients back onto their pixels (col2im)",
        owner=windows,
        parts=("add_windows",),
        inputs=lambda: cases.convolution_inputs("dwindows", "x_shape"),
        run=cases.run_add_windows,
        axes={"dx": IMAGE},
        given="from minicnn.layers.windows import Window",
        notes="""
dwindows is (n, oh, ow, kh, kw, c), and x_shape (n, h, w, c). Window [n, i, j] was read from the padded pixels at rows
i*stride + dilation*(0 .. kh-1), likewise for columns; window.padding is ((top, bottom), (left, right)).""",
        hints=(
            "Begin with padded zeros, and take the padding off at the end. A pixel may be in several windows.",
            "Loop over positions (i, j) or over the window's pixels (p, q); add each piece where it came from.",
            "For (p, q): padded[:, rows p*dilation + stride*(0 .. oh-1), columns alike] += dwindows[:, :, :, p, q].",
        ),
    ),
    Exercise(
        name="convolution_dx",
        task="what the image receives",
        owner=convolution,
        parts=("convolve_dx",),
        inputs=lambda: cases.convolution_inputs("dy", "w", "x_shape"),
        run=cases.run_dx,
        axes={"dx": IMAGE},
        given="from minicnn.layers.windows import Window, add_windows",
        notes="""
add_windows(dwindows, x_shape, window) adds (n, oh, ow, kh, kw, c) back onto the pixels that windows were read from.""",
        hints=(
            "First the gradient of every window, as if windows did not overlap: a dense layer's dx. Then add them up.",
            "dwindows[n, i, j, p, q, c] = sum over f of dy[n, i, j, f] * w[p, q, c, f].",
            "dy as (n*oh*ow, f) times the transpose of w as (kh*kw*c, f), reshaped, and through add_windows.",
        ),
        left_out=("dmatrix = ",),
    ),
    Exercise(
        name="max_pool",
        task="the largest number of each window, and where its gradient goes",
        owner=pooling.MaxPool2D,
        parts=("forward", "backward"),
        inputs=cases.max_pool_inputs,
        run=cases.run_max_pool,
        axes={"y": IMAGE, "dx": IMAGE},
        given="from minicnn.layers import pooling\nfrom minicnn.layers.windows import add_windows, windows",
        notes="""
self.window says how the window slides, self.pool_size is (kh, kw). windows(x, self.window, fill) gives every window,
(n, oh, ow, kh, kw, c), with `fill` as the padding; add_windows(dwindows, x_shape, self.window) is the way back.
What forward keeps with self.save_for_backward(...) is for you to choose. There is no NaN here.""",
        hints=(
            "What must never win although it is in the window? And of two pixels equally large, only the first wins.",
            "View a window as kh*kw numbers: argmax gives the first of the largest. Keep that index, and x.shape.",
            "In backward, dwindows (n, oh, ow, kh, kw, c) is dy at the winner, else 0; add_windows does the rest.",
        ),
        mistakes=(
            ("fill=-np.inf", "fill=0", "the padding won: fill it with -infinity, for numbers may all be below 0"),
            ("== np.arange(kh * kw)", "!= np.arange(kh * kw)", "dy went to those that lost"),
            (
                "np.where(won, ",
                "np.where(won | True, 1 / kh / kw * ",
                "that is the mean's gradient: dy goes to the largest alone",
            ),
            ("np.where(won, ", "np.where(won | True, ", "each pixel got dy: it goes to the largest alone"),
        ),
    ),
    Exercise(
        name="batch_norm_forward",
        task="every channel to mean 0 and variance 1",
        owner=normalization.BatchNorm,
        parts=("forward",),
        inputs=cases.batch_norm_forward_inputs,
        run=cases.run_batch_norm_forward,
        axes={},
        given="from minicnn.layers import normalization",
        notes="""
self.gamma.value, self.beta.value, self.mean.value and self.variance.value are (c,); the last two are the running ones.
self.update_running(mean, variance, m) moves them towards a batch's, m being the numbers a channel has. When training,
keep what the library's backward reads: self.save_for_backward(xhat, inverse_std), inverse_std being
1 / sqrt(variance + epsilon). There is no activation here.""",
        hints=(
            "x may be (n, c) or (n, h, w, c): over which axes is a channel's mean?",
            "Training takes the batch's mean and variance, use takes the running ones. The rest is the same.",
            "axes = all but the last; x.mean(axis=axes), x.var(axis=axes); m = x.size // x.shape[-1].",
        ),
        left_out=("dbeta = ", "The two subtracted"),
        mistakes=(
            ("x.var(axis=axes)", "x.var(axis=axes, ddof=1)", "the variance is the biased one: divide by m, not m - 1"),
            (
                "np.sqrt(variance + self.epsilon)",
                "(np.sqrt(variance) + self.epsilon)",
                "epsilon belongs under the root",
            ),
            ("np.sqrt(variance + self.epsilon)", "np.sqrt(variance)", "epsilon is missing: add it under the root"),
            ("np.sqrt(variance + self.epsilon)", "(variance + self.epsilon)", "the root is missing"),
            ("x.var(axis=axes)", "x.std(axis=axes)", "that is the standard deviation: the variance is its square"),
            (
                "range(x.ndim - 1)",
                "range(x.ndim)",
                "each channel has its own mean and variance: not over the last axis",
            ),
            ("x.size // x.shape[-1]", "len(x)", "m counts a channel's numbers: images times positions"),
            ("self.gamma.value * xhat + self.beta.value", "xhat", "gamma and beta are missing"),
            ("* xhat + self.beta.value", "* (xhat + self.beta.value)", "beta is added after gamma has multiplied"),
            ("if training:", "if True:", "in use, when not training, the running mean and variance serve"),
            ("self.update_running(mean, variance, x.size // x.shape[-1])", "pass", "self.update_running is not called"),
        ),
    ),
    Exercise(
        name="batch_norm_backward",
        task="its chain rule, through mean and variance too",
        owner=normalization.BatchNorm,
        parts=("backward",),
        inputs=cases.batch_norm_inputs,
        run=cases.run_batch_norm_backward,
        axes={"dgamma": "channel", "dbeta": "channel"},
        given="from minicnn.layers import normalization",
        notes="""
forward kept xhat, inverse_std = self.saved, with inverse_std = 1 / sqrt(variance + epsilon), (c,). Write
self.gamma.grad[...] = ... and self.beta.grad[...] = ..., and return dx. There is no activation here.""",
        hints=(
            "x moves xhat in three ways: directly, through the mean, and through the variance. Derive one at a time.",
            "dgamma = sum(dy * xhat), dbeta = sum(dy). The mean takes dy's mean, the variance its part along xhat.",
            "dx = gamma * inverse_std * (dy - mean(dy) - xhat * mean(dy * xhat)), means over all axes but the last.",
        ),
        left_out=("dbeta = ", "The two subtracted"),
        mistakes=(
            ("dy - dbeta / m - xhat * (dgamma / m)", "dy", "mean and variance depend on x too: two terms are missing"),
            (
                " - xhat * (dgamma / m)",
                " + xhat * (dgamma / m)",
                "the sign of what flows through the variance is wrong",
            ),
            (" - dbeta / m", " + dbeta / m", "the sign of what flows through the mean is wrong"),
            (" - dbeta / m", "", "what flows through the mean is missing"),
            (" - xhat * (dgamma / m)", "", "what flows through the variance is missing"),
            ("dy - dbeta / m - xhat * (dgamma / m)", "dy - dbeta - xhat * dgamma", "divide the sums in dx by m"),
            ("self.gamma.value * inverse_std", "inverse_std", "gamma is missing in dx"),
            ("self.gamma.value * inverse_std", "self.gamma.value", "1 / sqrt(variance + epsilon) is missing in dx"),
            ("inverse_std * (dy", "inverse_std**2 * (dy", "inverse_std is the reciprocal of the root already"),
        ),
    ),
    Exercise(
        name="adam",
        task="from gradients to steps",
        owner=optimizers.Adam,
        parts=("update",),
        inputs=cases.adam_inputs,
        run=cases.run_adam,
        axes={},
        given="from minicnn import optimizers",
        notes="""
Change w, mean and square (the m and s of the formula) in place: w -= ..., mean[...] = ... . First of all w *= keep.
self.beta1, self.beta2, self.epsilon are numbers, and self.steps is the step, from 1 on.""",
        hints=(
            "mean and square begin at 0 and so are too small at first. By which factor, if dw never changed?",
            "After that many steps mean has seen 1 - beta1**steps of the gradient: divide by it. The same for square.",
            "w -= rate * (mean / (1 - beta1**steps)) / (sqrt(square / (1 - beta2**steps)) + epsilon): mean stays.",
        ),
        mistakes=(
            ("math.sqrt(1 - self.beta2**self.steps)", "(1 - self.beta2**self.steps)", "correct s before its root"),
            ("math.sqrt(1 - self.beta2**self.steps)", "1", "the bias correction of s is missing"),
            ("rate / (1 - self.beta1**self.steps)", "rate", "the bias correction of m is missing"),
            (
                "np.sqrt(square) / math.sqrt(1 - self.beta2**self.steps) + self.epsilon",
                "np.sqrt(square / (1 - self.beta2**self.steps) + self.epsilon)",
                "epsilon is added after the root, not under it",
            ),
            (
                "np.sqrt(square) / math.sqrt(1 - self.beta2**self.steps)",
                "square / (1 - self.beta2**self.steps)",
                "the root of s is missing",
            ),
            (
                "(1 - self.beta2**self.steps)",
                "(1 - self.beta1**self.steps)",
                "s is corrected with beta2, and not beta1",
            ),
            ("+ (1 - self.beta1) * dw", "+ self.beta1 * dw", "the new gradient counts 1 - beta1, and not beta1"),
            ("+ (1 - self.beta2) * dw", "+ self.beta2 * dw", "the new square counts 1 - beta2, and not beta2"),
            (
                "mean[...] = self.beta1 * mean + (1 - self.beta1) * dw",
                "mean[...] = (self.beta1 * mean + (1 - self.beta1) * dw) / (1 - self.beta1**self.steps)",
                "mean itself is corrected: it stays as it is, for the next step; correct what goes into the step",
            ),
            (
                "square[...] = self.beta2 * square + (1 - self.beta2) * dw * dw",
                "square[...] = (self.beta2 * square + (1 - self.beta2) * dw * dw) / (1 - self.beta2**self.steps)",
                "square itself is corrected: it stays as it is, for the next step; correct what goes into the step",
            ),
            ("* mean / root", "* dw / root", "the step goes along m, the running mean, and not along dw"),
            ("* dw * dw", "* dw", "s is the running mean of dw squared"),
        ),
    ),
    Exercise(
        name="training_step",
        task="the inside of the training loop",
        owner=training,
        parts=("train_step",),
        inputs=cases.training_inputs,
        run=cases.run_training,
        axes={},
        given="from minicnn.run import Run\nfrom minicnn.training import count_correct",
        notes="""
index says which of run.images and run.targets are in this batch. You have

    run.model.batch(run.images, index)              x, the batch's images as the first layer takes them
    run.targets[index]                              their targets
    run.model.forward(x, training=True)             the outputs
    run.loss(outputs, targets)                      (value, doutputs); the value is the mean over the batch
    run.model.backward(doutputs)                    writes every gradient
    run.optimizer.step(run.model.parameters, rate)  with rate = run.schedule(run.step) * run.rate_scale
    count_correct(outputs, targets)

and must keep count: run.step and run.batch grow by 1, run.seen by the images, run.correct by the correct answers,
run.total by the sum of their losses. There is no augmentation here.""",
        hints=(
            "There is an order in which each line has what it needs: images, outputs, loss, gradients, step, counts.",
            "The rate is that of this step: ask the schedule before run.step grows. The last batch may be smaller.",
            "The loss is a mean: run.total grows by value * len(index).",
        ),
        mistakes=(
            (
                "value * size",
                "value",
                "run.total sums over images, and the loss is a mean: multiply by len(index)",
            ),
            (
                "run.schedule(run.step)",
                "run.schedule(run.step + 1)",
                "the rate is that of the step before run.step grows",
            ),
            (
                'run.rate_scale * number(run.schedule(run.step), f"schedule({run.step})", least=0)',
                "run.optimizer.learning_rate",
                "the rate comes from run.schedule",
            ),
            ("run.rate_scale * ", "", "run.rate_scale is missing in the rate"),
            (
                "engine.fast(run.optimizer).step(model.parameters, rate)",
                "pass",
                "the weights stay as they were: first run.model.backward, then run.optimizer.step",
            ),
            (
                "model.backward(doutputs)",
                "model.backward(doutputs / len(index))",
                "doutputs is divided by the images a second time: the loss is a mean already",
            ),
        ),
    ),
]


def find(name: str) -> Exercise:
    """The exercise of that name; ValueError where there is none."""
    for exercise in EXERCISES:
        if exercise.name == name:
            return exercise
    raise ValueError(f"{name}: no such exercise; there are {', '.join(e.name for e in EXERCISES)}")
