"""The inference runtimes that read ONNX: ONNX Runtime, OpenVINO, MNN.

Guides: "Thread management" (onnxruntime.ai/docs/performance/tune-performance/threading.html: as many intra-op threads as
cores, which spin, the graph optimized fully) and "I/O Binding"; "Performance Hints and Thread Scheduling" and "Python API
Advanced Inference" (docs.openvino.ai: the hints LATENCY and THROUGHPUT, `inference_num_threads`, memory shared for input and
output; the default precision is bfloat16 where the processor has it); MNN's Python documentation (github.com/alibaba/MNN,
docs/pymnn).
"""

from __future__ import annotations

import os
import tempfile

import numpy as np

from contestants.onnx_graph import graph, images


class Runtime:
    """What they share: a network and its arrays, of which each inference makes a model of its own."""

    def __init__(self, net, arrays, threads, precision=None):
        self.net, self.arrays, self.precision = net, arrays, precision

    def use(self, threads):
        """Each model keeps the number of threads it was made with."""


class OnnxRuntime(Runtime):
    """ONNX Runtime's CPU provider, input and output bound to memory."""

    def inference(self, x, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        model = graph(self.net, self.arrays, len(x))
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        y = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty((len(x), self.net.layers[-1][1]), np.float32))
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(images(x)))
        binding.bind_ortvalue_output("logits", y)

        def run():
            session.run_with_iobinding(binding)
            return y

        return run


class OpenVINO(Runtime):
    """OpenVINO's CPU plugin; precision "f32", or None for its default, bfloat16 where it can.

    One image gets the hint LATENCY. Many get THROUGHPUT, a stream a thread, and parts of 32 images that run side by side: 4
    to 18% faster in float32 than all at once with LATENCY, of 8, 32 and 128 images the best.
    """

    def inference(self, x, threads):
        import openvino

        many = len(x) > 1
        settings = {"PERFORMANCE_HINT": "THROUGHPUT" if many else "LATENCY", "INFERENCE_NUM_THREADS": threads}
        settings |= {"NUM_STREAMS": threads} if many else {}
        settings |= {"INFERENCE_PRECISION_HINT": self.precision} if self.precision else {}
        core, part = openvino.Core(), min(len(x), 32)
        compiled = core.compile_model(core.read_model(graph(self.net, self.arrays, part)), "CPU", settings)
        requests, x, y = [], images(x), np.empty((len(x), self.net.layers[-1][1]), np.float32)
        for i in range(0, len(x), part):
            request = compiled.create_infer_request()
            request.set_input_tensor(openvino.Tensor(x[i : i + part], shared_memory=True))
            request.set_output_tensor(openvino.Tensor(y[i : i + part], shared_memory=True))
            requests.append(request)

        def run(x=x):  # the requests share the images' memory, which must stay
            for request in requests:
                request.start_async()
            for request in requests:
                request.wait()
            return y

        def run_one(x=x):
            requests[0].infer(share_outputs=True)
            return y

        return run if many else run_one


class MNN(Runtime):
    """MNN's CPU backend; precision "low" allows it fewer bits, of which PyPI's build for x86-64 makes no use."""

    def inference(self, x, threads):
        import MNN

        with tempfile.TemporaryDirectory() as folder:
            source, target = os.path.join(folder, "net.onnx"), os.path.join(folder, "net.mnn")
            with open(source, "wb") as file:
                file.write(graph(self.net, self.arrays, len(x)))
            self._convert(source, target)
            settings = {"backend": 0, "numThread": threads, "precision": self.precision or "high"}
            manager = MNN.nn.create_runtime_manager((settings,))
            module = MNN.nn.load_module_from_file(target, ["x"], ["logits"], runtime_manager=manager)
        x = images(x)
        placed = MNN.expr.convert(MNN.expr.const(x, list(x.shape), MNN.expr.NCHW), MNN.expr.NC4HW4)
        kept = [x, manager, None]  # what is read is memory of the last answer, good until the next

        def run():
            kept[2] = module.forward(placed)
            return kept[2].read()

        return run

    @staticmethod
    def _convert(source, target):
        """The converter itself: its wrapper MNN.tools installs a package at import that reports its use."""
        import _tools

        _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", target])
