"""Keras on TensorFlow, its training step traced into a graph, which oneDNN computes.

Guides: "Maximize TensorFlow Performance on CPU" and "Guide to TensorFlow Runtime Optimizations for CPU" (Intel:
TF_ENABLE_ONEDNN_OPTS=1, intra-op threads = cores, inter-op threads = sockets; the settings of OpenMP are for another
build than PyPI's); "Better performance with tf.function" and "Mixed precision" (tensorflow.org/guide).
"""

from __future__ import annotations

import os

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "1"}

import tensorflow as tf

KERAS = tf.keras.layers
PLAIN = {"relu": KERAS.ReLU, "pool": KERAS.MaxPool2D, "gap": KERAS.GlobalAveragePooling2D, "flatten": KERAS.Flatten}


def layers(net):
    """The network's layers, as Keras'. A stride of two pads by hand, since "same" would pad on one side only."""
    for kind, *options in net.layers:
        if kind == "conv":
            filters, kernel, stride, bias = options
            if stride > 1:
                yield KERAS.ZeroPadding2D(kernel // 2)
            padding = "valid" if stride > 1 else "same"
            yield KERAS.Conv2D(filters, kernel, stride, padding=padding, use_bias=bias)
        elif kind == "depthwise":
            yield KERAS.DepthwiseConv2D(options[0], padding="same", use_bias=False)
        elif kind == "dense":
            yield KERAS.Dense(options[0])
        elif kind == "dropout":
            yield KERAS.Dropout(options[0])
        elif kind == "bn":
            yield KERAS.BatchNormalization(momentum=0.9, epsilon=1e-5)
        elif kind == "silu":
            yield KERAS.Activation("silu")
        else:
            yield PLAIN[kind]()


class TensorFlow:
    """tf.keras.Sequential; with xla its functions are compiled by XLA, with bfloat16 its policy is mixed_bfloat16."""

    threads_fixed = True

    def __init__(self, net, arrays, threads, xla=False, bfloat16=False):
        if not tf.config.threading.get_inter_op_parallelism_threads():
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16" if bfloat16 else "float32")
        self.net, self.xla = tf.keras.Sequential([tf.keras.Input(net.shape), *layers(net)]), xla
        self.net.set_weights(arrays)
        self.loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.optimizer = tf.keras.optimizers.Adam(1e-3)
        self.optimizer.build(self.net.trainable_variables)

    def use(self, threads):
        """The number of threads is fixed when TensorFlow starts."""

    def _tape(self, x, y):
        with tf.GradientTape() as tape:
            logits = tf.cast(self.net(x, training=True), "float32")
            loss = self.loss(y, logits)
        return logits, loss, tape.gradient(loss, self.net.trainable_variables)

    def gradients(self, x, y):
        logits, loss, gradients = tf.function(self._tape, jit_compile=self.xla)(tf.constant(x), tf.constant(y))
        return logits.numpy(), float(loss), [g.numpy() for g in gradients]

    def training(self, x, y):
        images, labels = tf.constant(x), tf.constant(y)

        @tf.function(jit_compile=self.xla)
        def step():
            self.optimizer.apply(self._tape(images, labels)[2], self.net.trainable_variables)

        return step

    def inference(self, x, threads):
        images = tf.constant(x)
        forward = tf.function(lambda x: self.net(x, training=False), jit_compile=self.xla).get_concrete_function(images)
        return lambda: tf.cast(forward(images), "float32").numpy()
