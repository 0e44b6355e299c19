"""The three networks that everything is measured on, for 28x28x1 images and ten classes, and their layers as plain data.

A network is a list of: ("conv", filters, kernel, bias), ("bn",), ("relu",), ("pool",), ("gap",), ("flatten",),
("dense", units), ("dropout", rate). Each contestant builds its own from it. Padding is 'same'.
"""

A = [
    *(("conv", 32, 3, True), ("relu",), ("pool",), ("conv", 64, 3, True), ("relu",), ("pool",)),
    *(("flatten",), ("dense", 128), ("relu",), ("dense", 10)),
]
B = [
    *(("conv", 32, 3, False), ("bn",), ("relu",), ("conv", 32, 3, False), ("bn",), ("relu",), ("pool",)),
    *(("conv", 64, 3, False), ("bn",), ("relu",), ("conv", 64, 3, False), ("bn",), ("relu",), ("pool",)),
    *(("conv", 128, 3, False), ("bn",), ("relu",), ("gap",), ("dense", 10)),
]
S = [
    *(("conv", 32, 5, True), ("relu",), ("conv", 32, 5, True), ("relu",), ("pool",), ("dropout", 0.25)),
    *(("conv", 64, 3, True), ("relu",), ("conv", 64, 3, True), ("relu",), ("pool",), ("dropout", 0.25)),
    *(("flatten",), ("dense", 256), ("relu",), ("dropout", 0.5), ("dense", 10)),
]
NETS = {"A": (A, 128), "B": (B, 128), "S": (S, 86)}  # with the batch size of a training step
INFERENCE_BATCH = 256
