"""What half of the FLOPs is worth once channels, heads and hidden units are physically gone: milliseconds on a CPU.

    python benchmarks/structure/run.py

Every network is traced, loses at least half of its FLOPs (layer by layer, smallest weights first), and then four take
turns in one process: the whole network and the small one, each in torch and converted for the engine. Weights are
random: speed does not depend on them. Before anything is timed, the small network's output is compared with that of the
whole one with the same units zeroed, and the engine's with torch's.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparseland as sl
from sparseland.reports.speed import summary, take_turns, write_result
from sparseland.weights import structure

HERE = Path(__file__).resolve().parent
CLAIM = "a network that loses half of its FLOPs physically is faster, in torch and in the engine"
CLOSE = 1e-4  # of the largest output
ZOO = {"resnet-56": 32, "vgg-c": 32, "mobilenet-v1": 224, "mobilenet-v2": 224, "imagenet-resnet-50": 224}
HUGGING = ("vit", "bert", "llama-gqa", "convnext")


def hugging(name: str) -> tuple[nn.Module, Any]:
    """A network of transformers with random weights, small enough for two cores, and its sample."""
    import transformers as tf

    words = {"input_ids": torch.arange(128)[None] % 1000}
    size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536}
    if name == "vit":
        return tf.ViTForImageClassification(tf.ViTConfig(**size, image_size=224, patch_size=16)), image(224)
    if name == "bert":
        return tf.BertModel(tf.BertConfig(**size, vocab_size=1000), add_pooling_layer=False), words
    if name == "convnext":
        config = tf.ConvNextConfig(hidden_sizes=[48, 96, 192, 384], depths=[2, 2, 6, 2])
        return tf.ConvNextForImageClassification(config), image(224)
    size |= {"num_attention_heads": 8, "num_key_value_heads": 4}
    return tf.LlamaModel(tf.LlamaConfig(**size, vocab_size=1000)), {**words, "use_cache": False}


def image(side: int) -> tuple[Tensor]:
    """One picture of noise."""
    return (torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)),)


def network(name: str) -> tuple[nn.Module, Any]:
    """A network in evaluation mode and what it is called with."""
    torch.manual_seed(0)
    if name not in ZOO:
        net, sample = hugging(name)
        return net.eval(), sample
    large = {"stem_stride": 2} if name == "mobilenet-v1" else {}
    return sl.zoo.build(name, in_shape=(3, ZOO[name], ZOO[name]), classes=1000, **large).eval(), image(ZOO[name])


def call(net: nn.Module, sample: Any) -> Tensor:
    """The first tensor that the network returns."""
    with torch.no_grad():
        out = net(**sample) if isinstance(sample, Mapping) else net(*sample)
    return out if isinstance(out, Tensor) else out[0]


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    return float((one - other).abs().max() / other.abs().max())


def measured(name: str, threads: int, rounds: int) -> dict[str, Any]:
    """One network: FLOPs, parameters, and the four in turns."""
    whole, sample = network(name)
    graph = structure.trace(whole, sample)
    plan = graph.plan(scores=graph.weight_norms(), flops=0.5, scope="layer")
    twin = call(plan.mask_(copy.deepcopy(whole)), sample)
    small = plan.apply(copy.deepcopy(whole))
    found = {"masked twin": apart(call(small, sample), twin)}
    rivals: dict[str, Callable[[], object]] = {}
    given = sample if isinstance(sample, Mapping) else tuple(sample)
    for size, net in (("whole", whole), ("small", small)):
        engine = sl.deploy.convert(net, given, threads=threads, never_slower=False)
        made = engine(**given) if isinstance(given, Mapping) else engine(*given)
        first = (
            made if isinstance(made, Tensor) else next(iter(made.values()) if isinstance(made, Mapping) else iter(made))
        )
        found[f"engine, {size}"] = apart(torch.as_tensor(first), call(net, sample))
        rivals[f"torch, {size}"] = lambda net=net: call(net, sample)
        rivals[f"engine, {size}"] = (
            (lambda engine=engine: engine(**given))
            if isinstance(given, Mapping)
            else (lambda engine=engine: engine(*given))
        )
    if (worst := max(found.values())) > CLOSE:
        raise SystemExit(f"{name}: answers differ by {worst:.1e} of the largest output ({found}), so nothing is timed")
    times = summary(take_turns(rivals, rounds=rounds, warm_up=3), "torch, whole")
    seconds = {rival: times[rival]["median"] for rival in times}
    return {
        "model": name, "flops": plan.after[0] / plan.before[0], "parameters": plan.after[1] / plan.before[1],
        "differences": found, "times": times,
        "torch": seconds["torch, whole"] / seconds["torch, small"],
        "engine": seconds["engine, whole"] / seconds["engine, small"],
    }  # fmt: skip


def main() -> None:
    """Measure every network, print a table, write result.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[*ZOO, *HUGGING], choices=[*ZOO, *HUGGING])
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    rows = []
    for name in given.models:
        row = measured(name, given.threads, given.rounds)
        rows.append(row)
        ms = {rival: 1e3 * one["median"] for rival, one in row["times"].items()}
        print(
            f"{name:20} {row['flops']:.2f} of the FLOPs: "
            + ", ".join(f"{rival} {taken:.2f}" for rival, taken in ms.items())
            + f" ms: {row['torch']:.2f} x in torch, {row['engine']:.2f} x in the engine",
            flush=True,
        )
    least = {where: min(row[where] for row in rows) for where in ("torch", "engine")}
    mean = {where: math.exp(sum(math.log(row[where]) for row in rows) / len(rows)) for where in ("torch", "engine")}
    write_result(
        given.out, CLAIM, "python benchmarks/structure/run.py", threads=given.threads, rounds=given.rounds,
        rows=rows, least=least, mean=mean, holds=min(least.values()) > 1,
    )  # fmt: skip
    print(f"mean {mean['torch']:.2f} x in torch, {mean['engine']:.2f} x in the engine -> {given.out}")


if __name__ == "__main__":
    main()
