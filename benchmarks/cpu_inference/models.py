"""The models of the benchmark, how they are pruned, and the ONNX file that all engines read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sparseland as sl

TOKENS = 128
IMAGE = (3, 224, 224)
NETS = ("mobilenet-v1", "mobilenet-v2", "mobilenet-v3-large", "efficientnet-b0", "imagenet-resnet-50")
MODELS = (*NETS, "minilm", "vit-tiny")
HEADS = ("linear", "fc", "classifier")  # last parts of the names of classifiers, which stay dense
OPSET = 14  # without ops that came later; below, where an engine is older than HardSwish
OPSET_OF = {"deepsparse": 13}


class Part(nn.Module):
    """A transformers model that takes one tensor and returns one."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = getattr(self.model(x), self.output)
        return found


def build(name: str, batch: int, peers: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A model in evaluation mode and its input; ``peers`` is the folder with what is downloaded."""
    draw = torch.Generator().manual_seed(1)
    if name == "minilm":
        from transformers import BertModel
        from transformers.utils import logging

        logging.set_verbosity_error()  # it reports that the pooler is not asked for
        logging.disable_progress_bar()
        place = next(Path(peers).glob("minilm/**/model.safetensors")).parent
        bert = BertModel.from_pretrained(place, add_pooling_layer=False)
        ids = torch.randint(1000, bert.config.vocab_size, (batch, TOKENS), generator=draw)
        return Part(bert, "last_hidden_state").eval(), (ids,)
    x = torch.randn(batch, *IMAGE, generator=draw)
    if name == "vit-tiny":
        size = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
        vit = sl.zoo.build("hf:config:vit", in_shape=IMAGE, classes=1000, seed=0, **size)
        return Part(vit, "logits").eval(), (x,)
    return sl.zoo.build(name, in_shape=IMAGE, classes=1000, seed=0).eval(), (x,)


def prune(model: nn.Module, sparsity: float) -> int:
    """Zero the smallest weights of every convolution and linear layer, the same share of each; how many layers.

    The first convolution, depthwise convolutions and the classifier stay dense.
    """
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    pruned = 0
    for i, (name, layer) in enumerate(layers):
        first = i == 0 and isinstance(layer, nn.Conv2d)
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
        if first or depthwise or name.rpartition(".")[2] in HEADS:
            continue
        flat = layer.weight.detach().view(-1)
        flat[flat.abs().topk(round(sparsity * flat.numel()), largest=False).indices] = 0
        pruned += 1
    return pruned


def sizes(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, list[int]]:
    """``{layer: [inputs, outputs, side of the kernel, groups, stride, bytes read and written]}`` of all layers.

    The bytes are those of the activations, in float32.
    """
    found: dict[str, list[int]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            moved = 4 * (given[0].numel() + made.numel())
            if isinstance(layer, nn.Conv2d):
                c = layer
                found[name] = [c.in_channels, c.out_channels, c.kernel_size[0], c.groups, c.stride[0], moved]
            elif isinstance(layer, nn.Linear):
                found[name] = [layer.in_features, layer.out_features, 1, 1, 1, moved]

        return hook

    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers]
    with torch.no_grad():
        model(*inputs)
    for hook in hooks:
        hook.remove()
    return found


def calibrate(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Measure the statistics of BatchNorms anew, so that activations of a pruned net neither vanish nor explode."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    draw = torch.Generator().manual_seed(2)
    images = torch.randn(8, *inputs[0].shape[1:], generator=draw)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
        norm.train()
    with torch.no_grad():
        model(images)
    model.eval()


def export(model: nn.Module, inputs: tuple[Tensor, ...], path: Path, opset: int = OPSET) -> None:
    """Write the model as ONNX by torch's own exporter, its averages as the pooling op that all engines know.

    Below opset 14, hard-swish and hard-sigmoid are written as their arithmetic, the only form that DeepSparse knows.
    """
    import onnx

    if opset < 14:  # there fused attention cannot be written; the numbers are the same
        for part in model.modules():
            if hasattr(part, "set_attn_implementation"):
                part.set_attn_implementation("eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, inputs, str(path), opset_version=opset, dynamo=False)
    file = onnx.load(path)
    for index, node in reversed(list(enumerate(file.graph.node))):
        settings = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "ReduceMean" and list(settings["axes"]) in ([2, 3], [-1, -2], [-2, -1]):
            made = _average(node, bool(settings.get("keepdims", 1)))
        elif node.op_type == "HardSigmoid" and opset < 14:
            made = _hard_sigmoid(file.graph, node, settings["alpha"], settings.get("beta", 0.5))
        else:
            continue
        file.graph.node.remove(node)
        for extra in reversed(made):
            file.graph.node.insert(index, extra)
    onnx.checker.check_model(file)
    onnx.save(file, path)


def _average(node: Any, keep: bool) -> list[Any]:
    """The mean over pixels as a pooling op."""
    from onnx.helper import make_node

    if keep:
        return [make_node("GlobalAveragePool", list(node.input), list(node.output), name=node.name)]
    pooled = node.output[0] + ":pooled"
    return [
        make_node("GlobalAveragePool", list(node.input), [pooled], name=node.name),
        make_node("Flatten", [pooled], list(node.output), axis=1, name=node.name + "/flat"),
    ]


def _hard_sigmoid(graph: Any, node: Any, alpha: float, beta: float) -> list[Any]:
    """clip(alpha x + beta, 0, 1)."""
    from onnx import numpy_helper
    from onnx.helper import make_node

    out = node.output[0]
    names = []
    for what, value in (("alpha", alpha), ("beta", beta), ("zero", 0.0), ("one", 1.0)):
        names.append(f"{out}:{what}")
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), names[-1]))
    return [
        make_node("Mul", [node.input[0], names[0]], [out + ":scaled"], name=node.name + "/scaled"),
        make_node("Add", [out + ":scaled", names[1]], [out + ":line"], name=node.name + "/line"),
        make_node("Clip", [out + ":line", *names[2:]], [out], name=node.name),
    ]
