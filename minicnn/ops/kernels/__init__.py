"""The operations of `minicnn/ops/reference.py`, compiled by Numba: same names, same signatures, same numbers, faster.

Read in this order: lanes.py (a wide vector as a value), products.py (the two small kernels that do all the multiplying),
convolution.py, dense.py, depthwise.py, pooling.py, normalization.py, elementwise.py, training.py; threads.py says how
kernels are compiled and shared out, workspace.py where their scratch memory comes from.
"""

from minicnn.ops.kernels.convolution import conv2d, conv2d_backward
from minicnn.ops.kernels.dense import dense, dense_backward
from minicnn.ops.kernels.depthwise import depthwise_conv2d, depthwise_conv2d_backward
from minicnn.ops.kernels.elementwise import (
    add,
    dropout,
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from minicnn.ops.kernels.normalization import batch_norm, batch_norm_backward, scale_shift
from minicnn.ops.kernels.pooling import (
    average_pool2d,
    average_pool2d_backward,
    global_average_pool2d,
    global_average_pool2d_backward,
    global_max_pool2d,
    global_max_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from minicnn.ops.kernels.training import (
    adam_step,
    make_batch,
    rmsprop_step,
    sgd_step,
    softmax_cross_entropy,
    sum_of_squares,
)
