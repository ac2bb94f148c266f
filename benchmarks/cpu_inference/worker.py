"""One engine in a process of its own: it loads a model, runs it when told to, and says how long each run took.

Talks JSON, one line per message, over standard input and output. Imports nothing but the engine it is started for, so
that the same file also runs in the environment of a peer that needs other versions.

    {"do": "load", "onnx": {ENGINE: FILE}, "model": NAME, "batch": N, "weights": FILE, …} -> {"about": VERSION}
    {"do": "run", "warm": N, "times": N} -> {"seconds": […]}
    {"do": "answer", "to": FILE, "threads": N} -> {"facts": {…}}    (the outputs, as .npz)
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback

import numpy as np


def torch_model(job):
    """The model with the weights of this cell, as it was built for all."""
    import torch
    from models import build
    from safetensors.torch import load_file

    torch.set_num_threads(job["threads"])
    model, _ = build(job["model"], job["batch"], job["peers"])
    model.load_state_dict(load_file(job["weights"]))
    return model.eval()


class Torch:
    """Eager."""

    compiled = None

    def load(self, job, inputs):
        import torch

        torch.set_grad_enabled(False)
        self.model, self.inputs = torch_model(job), [torch.from_numpy(x) for x in inputs]
        return torch.__version__

    def run(self):
        return self.model(*self.inputs)

    def answer(self):
        return [self.run().numpy()]


class Compiled(Torch):
    """torch.compile: compiled once for each model and batch; other weights of the same shapes are copied in."""

    def load(self, job, inputs):
        import torch

        torch.set_grad_enabled(False)
        key = (job["model"], job["batch"])
        self.inputs = [torch.from_numpy(x) for x in inputs]
        if self.compiled is not None and self.key == key:
            from safetensors.torch import load_file

            self.original.load_state_dict(load_file(job["weights"]))
        else:
            torch._dynamo.reset()
            self.original, self.key = torch_model(job), key
            self.compiled = torch.compile(self.original)
        self.model = self.compiled
        self.run()
        return torch.__version__


class OnnxRuntime:
    """ONNX Runtime, CPU provider."""

    def load(self, job, inputs):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = job["threads"], 1
        self.session = onnxruntime.InferenceSession(
            job["onnx"]["onnxruntime"], options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {one.name: x for one, x in zip(self.session.get_inputs(), inputs)}  # noqa: B905
        return onnxruntime.__version__

    def run(self):
        return self.session.run(None, self.inputs)

    answer = run


class OpenVino:
    """OpenVINO, one stream, float32 (its default on newer CPUs is bfloat16)."""

    def load(self, job, inputs):
        import openvino

        wishes = {
            "INFERENCE_NUM_THREADS": job["threads"],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.request = openvino.Core().compile_model(job["onnx"]["openvino"], "CPU", wishes).create_infer_request()
        self.inputs = inputs
        return openvino.__version__

    def run(self):
        return self.request.infer(self.inputs, share_inputs=True, share_outputs=True)

    def answer(self):
        return [np.array(one) for one in self.run().values()]


class DeepSparse:
    """DeepSparse: closed, ended, and the fastest there was."""

    def load(self, job, inputs):
        import deepsparse

        self.engine = deepsparse.Engine(
            model=job["onnx"]["deepsparse"], batch_size=job["batch"], num_cores=job["threads"]
        )
        self.inputs = inputs
        share = self.engine.fraction_of_supported_ops
        return "%s, %.0f %% of the ops" % (deepsparse.__version__, 100 * share)  # noqa: UP031

    def run(self):
        return self.engine.run(self.inputs)

    answer = run


class Ours(Torch):
    """sparseland's engine, converted from the torch model."""

    def load(self, job, inputs):
        import torch

        import sparseland as sl

        torch.set_grad_enabled(False)
        self.inputs = [torch.from_numpy(x) for x in inputs]
        self.model = sl.deploy.convert(torch_model(job), tuple(self.inputs), threads=job["threads"])
        return f"{sl.__version__}, {self.model.backend}"

    def layers(self):
        """What the plan says about each layer."""
        return self.model.layers

    def peak(self, threads):
        """Multiply-adds that this machine can do at most, in 10⁹ per second, measured just now."""
        from sparseland.kernels import native

        return native().peak(threads)


ENGINES = {
    "torch": Torch, "torch.compile": Compiled, "onnxruntime": OnnxRuntime, "openvino": OpenVino,
    "deepsparse": DeepSparse, "ours": Ours,
}  # fmt: skip


def serve(engine, message):
    """Do what one message says."""
    if message["do"] == "load":
        with np.load(message["inputs"]) as stored:
            inputs = [np.ascontiguousarray(stored[name]) for name in stored.files]
        return {"about": engine.load(message, inputs)}
    if message["do"] == "answer":
        np.savez(message["to"], *[np.asarray(one) for one in engine.answer()])
        facts = {"layers": engine.layers(), "peak": engine.peak(message["threads"])} if hasattr(engine, "peak") else {}
        return {"facts": facts}
    for _ in range(message["warm"]):
        engine.run()
    seconds = []
    for _ in range(message["times"]):
        began = time.perf_counter()
        engine.run()
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds}


def main():
    """Answer messages until there are no more; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine = ENGINES[sys.argv[1]]()
    for line in sys.stdin:
        try:
            answer = serve(engine, json.loads(line))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
