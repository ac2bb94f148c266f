"""Part router: a character model whose feed-forward layer is eight experts, and who decides which expert sees what.

One causal block. A group is one position of 128 sequences, so that balancing a group leaks no later character. Every
router gets the same 16 places per expert (128 / 8); tokens beyond them, or that no expert takes, keep the residual.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseland.train.result import machine, versions
from sparseland.transport import route

LOSS, CV, MOST = "validation loss (nats per 100 characters)", "load CV (%)", "largest load in training (tokens)"
UNSERVED, MS = "tokens without an expert (%)", "router ms per step"
Pair = tuple[Tensor, Tensor]


@functools.lru_cache(maxsize=1)
def characters() -> tuple[Tensor, int]:
    """Tiny Shakespeare as numbers, and how many different ones there are."""
    text = (Path(os.environ["SPARSELAND_DATA"]) / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    known = {c: i for i, c in enumerate(sorted(set(text)))}
    return torch.tensor([known[c] for c in text]), len(known)


def first_come(wanted: Tensor, capacity: int) -> Tensor:
    """The first ``capacity`` tokens of every column of a mask [G, S, E]."""
    return wanted & (wanted.cumsum(1) <= capacity)


def token_choice(logits: Tensor, capacity: int) -> Tensor:
    """Every token its best expert, first come, first served."""
    return first_come(F.one_hot(logits.argmax(-1), logits.shape[-1]).bool(), capacity)


def chosen_by_experts(scores: Tensor, capacity: int) -> Tensor:
    """Every expert its ``capacity`` best tokens."""
    at = scores.topk(capacity, 1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, at, True)


def expert_choice(logits: Tensor, capacity: int) -> Tensor:
    """Experts choose by softmax gates."""
    return chosen_by_experts(logits.softmax(-1), capacity)


def sinkhorn(logits: Tensor, capacity: int) -> Tensor:
    """Experts choose by an entropic plan: 20 scalings of exp(logits), tokens 1, experts S / E."""
    log = logits
    for _ in range(20):
        log = log - log.logsumexp(-1, keepdim=True)
        log = log - log.logsumexp(1, keepdim=True)
    return chosen_by_experts(log, capacity)


def scot(logits: Tensor, capacity: int) -> Tensor:
    """Sparsity-constrained transport, 20 steps of Adam, as in the original router."""
    return route(logits, causal=False, capacity=capacity).mask


def at_random(logits: Tensor, capacity: int) -> Tensor:
    """A balanced assignment that does not look at the tokens."""
    groups, tokens, experts = logits.shape
    order = torch.rand(groups, tokens).argsort(-1)
    return F.one_hot(order // capacity, experts).bool()


ROUTERS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "top-1 token choice": token_choice,
    "top-1, balance loss 0.01": token_choice,
    "expert choice": expert_choice,
    "Sinkhorn": sinkhorn,
    "SCOT": scot,
    "random, balanced": at_random,
}


class Experts(nn.Module):
    """Eight two-layer networks and the gate in front of them."""

    def __init__(self, width: int, hidden: int, experts: int, router: str) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, hidden) * width**-0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, width) * hidden**-0.5)
        self.router, self.seconds = router, 0.0
        self.mask = torch.empty(0)
        self.balance = torch.tensor(0.0)

    def forward(self, x: Tensor) -> Tensor:
        """x [G, S, d] -> the weighted sum of what its experts say, zero without one."""
        logits = self.gate(x)
        gates = logits.softmax(-1)
        groups, tokens, experts = logits.shape
        began = time.perf_counter()
        with torch.no_grad():
            self.mask = ROUTERS[self.router](logits.detach(), tokens // experts)
        self.seconds += time.perf_counter() - began
        wanted = F.one_hot(logits.argmax(-1), experts).to(x.dtype).mean(1)
        self.balance = experts * (wanted * gates.mean(1)).sum(-1).mean()
        used, at = self.mask.mT.to(torch.uint8).sort(dim=-1, descending=True, stable=True)
        used, at = used[..., : tokens // experts], at[..., : tokens // experts]  # [G, E, K]
        rows = torch.arange(groups)[:, None, None]
        inside = x[rows, at].transpose(0, 1).reshape(experts, -1, x.shape[-1])
        out = torch.bmm(F.gelu(torch.bmm(inside, self.up)), self.down).view(experts, groups, -1, x.shape[-1])
        weight = gates.mT.gather(-1, at) * used
        out = out.transpose(0, 1) * weight[..., None]
        return torch.zeros_like(x).index_put((rows.expand_as(at), at), out, accumulate=True)


class Model(nn.Module):
    """Embeddings, one causal attention, one layer of experts, a head."""

    def __init__(self, words: int, length: int, width: int, hidden: int, experts: int, router: str) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.experts, self.head = Experts(width, hidden, experts, router), nn.Linear(width, words)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [S, T] -> logits [S, T, words]; a group is a position."""
        x = self.words(ids) + self.places.weight
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.qkv(self.norms[0](x)).chunk(3, -1))
        x = x + self.mix(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        x = x + self.experts(self.norms[1](x).transpose(0, 1)).transpose(0, 1)
        return self.head(self.norms[2](x))


def batch(text: Tensor, sequences: int, length: int, generator: torch.Generator) -> Pair:
    """Random places of the text: characters and their successors."""
    at = torch.randint(0, len(text) - length - 1, (sequences, 1), generator=generator) + torch.arange(length + 1)
    part = text[at]
    return part[:, :-1], part[:, 1:]


def shape_of(masks: list[Tensor]) -> dict[str, float]:
    """Balance and service of the masks [G, S, E] of an evaluation."""
    mask = torch.cat(masks)
    load = mask.sum(1).double()
    return {
        CV: 100 * float((load.std(-1, correction=0) / load.mean(-1)).mean()),
        UNSERVED: 100 * float((~mask.any(-1)).double().mean()),
    }


def train(arm: str, seed: int, steps: int, width: int, hidden: int, length: int, tokens: int) -> dict[str, Any]:
    """One model with one router; validation on the last tenth of the text."""
    began = time.monotonic()
    torch.manual_seed(seed)
    text, words = characters()
    cut = len(text) * 9 // 10
    model = Model(words, length, width, hidden, 8, arm)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator, most = torch.Generator().manual_seed(seed), 0
    for _ in range(steps):
        ids, target = batch(text[:cut], tokens, length, generator)
        loss = F.cross_entropy(model(ids).flatten(0, 1), target.flatten())
        if "balance" in arm:
            loss = loss + 0.01 * model.experts.balance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        most = max(most, int(model.experts.mask.sum(1).max()))
    spent = model.experts.seconds
    model.eval()
    losses, masks = [], []
    held = torch.Generator().manual_seed(10_000)  # the same text for every arm and seed
    with torch.no_grad():
        for _ in range(20):
            ids, target = batch(text[cut:], tokens, length, held)
            losses.append(float(F.cross_entropy(model(ids).flatten(0, 1), target.flatten())))
            masks.append(model.experts.mask)
    values = {LOSS: 100 * sum(losses) / len(losses), MOST: most, MS: 1e3 * spent / steps} | shape_of(masks)
    return {
        "measured": [{"arm": arm, "metric": metric, "value": round(value, 4)} for metric, value in values.items()],
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }
