"""Draw the pictures of the documentation from the library's own objects.

    python tools/docs_pictures.py            write docs/pictures/*.svg
    python tools/docs_pictures.py --check    change nothing; exit 1 and say what is stale

Every cell, bar and curve is what the word itself returns. The SVG is written by hand, so that its bytes depend on
nothing but these values.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparseland import core

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
INK, SOFT, ALIVE, DEAD, GROWN, DROPPED = "#263238", "#78909c", "#3f51b5", "#e6e9f2", "#2e9e5b", "#e4572e"
COLOURS = ("#3f51b5", "#2e9e5b", "#e4572e", "#8e5ea2", "#c79a00")


# --------------------------------------------------------------------------------------------------------------- canvas
class Canvas:
    """A white SVG that is filled line by line; numbers are written with at most two digits."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.lines: list[str] = []

    def box(self, x: float, y: float, w: float, h: float, fill: str, line: str = "none", r: float = 0) -> None:
        """A rectangle."""
        self.lines.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}" rx="{_n(r)}" '
            f'fill="{fill}" stroke="{line}"/>'
        )

    def text(
        self, x: float, y: float, words: str, *, at: str = "start", size: int = 13, fill: str = INK, bold: bool = False
    ) -> None:  # fmt: skip
        """Words, ``at`` start, middle or end."""
        weight = ' font-weight="600"' if bold else ""
        safe = words.replace("&", "&amp;").replace("<", "&lt;")
        self.lines.append(
            f'<text x="{_n(x)}" y="{_n(y)}" font-size="{size}" text-anchor="{at}" fill="{fill}"{weight}>{safe}</text>'
        )

    def path(self, points: Sequence[tuple[float, float]], line: str, width: float = 2, dash: str = "") -> None:
        """A polyline."""
        d = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.lines.append(f'<polyline points="{d}" fill="none" stroke="{line}" stroke-width="{_n(width)}"{dashed}/>')

    def dot(self, x: float, y: float, fill: str, r: float = 3) -> None:
        """A filled circle."""
        self.lines.append(f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}" fill="{fill}"/>')

    def cells(self, x: float, y: float, colours: Sequence[Sequence[str]], size: float = 12) -> None:
        """A grid of colours."""
        for i, row in enumerate(colours):
            for j, colour in enumerate(row):
                self.box(x + j * size, y + i * size, size - 1.5, size - 1.5, colour, r=1.5)

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str]], step: float = 110) -> None:
        """Small squares with words."""
        for i, (colour, words) in enumerate(entries):
            self.box(x + i * step, y - 10, 11, 11, colour, r=1.5)
            self.text(x + i * step + 17, y, words, size=12, fill=INK)

    def svg(self) -> str:
        """The whole file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(self.width)} {_n(self.height)}" role="img" '
            f'font-family="system-ui, sans-serif">\n<title>{self.title}</title>\n'
            f'<rect width="{_n(self.width)}" height="{_n(self.height)}" fill="#fff" rx="6"/>\n'
        )
        return head + "\n".join(self.lines) + "\n</svg>\n"


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _seeded(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in [0, 1) that are the same everywhere: (a i + b) mod p, without a random generator."""
    total = 1
    for side in shape:
        total *= side
    values, state = [], 12345 + 7919 * seed
    for _ in range(total):
        state = (1103515245 * state + 12345) % 2**31
        values.append((state >> 8) % 10007 / 10007)
    return torch.tensor(values, dtype=torch.float64).view(shape)


def _mask(mask: Tensor) -> list[list[str]]:
    return [[ALIVE if cell else DEAD for cell in row] for row in mask.tolist()]


# ------------------------------------------------------------------------------------------------------------- pictures
def pattern() -> Canvas:
    """Which shapes a mask may take: half of one layer under six patterns."""
    canvas = Canvas(680, 330, "Six patterns, each keeping half of the same scores")
    scores = _seeded(8, 16, seed=3)
    for i, name in enumerate(("unstructured", "2:4", "block 4x1", "row", "column")):
        x, y = 20 + i % 3 * 222, 44 + i // 3 * 144
        canvas.text(x, y - 10, f'"{name}"', bold=True)
        canvas.cells(x, y, _mask(core.pattern(name).project(scores, 64)))
    x, y = 20 + 2 * 222, 44 + 144
    canvas.text(x, y - 10, '"kernel", on 2 × 5 × 3 × 3', bold=True)
    kernels = core.pattern("kernel").project(_seeded(2, 5, 3, 3, seed=4), 45)
    for o in range(2):
        for c in range(5):
            canvas.cells(x + c * 39, y + o * 42, _mask(kernels[o, c]))
    canvas.legend(20, 318, [(ALIVE, "kept"), (DEAD, "zero")], 80)
    canvas.text(180, 318, "rows: outputs, columns: inputs; 64 of 128 kept (kernels: 45 of 90)",
                size=12, fill=SOFT)  # fmt: skip
    return canvas


def criterion() -> Canvas:
    """What a coordinate is worth: three opinions on the same sixteen weights."""
    canvas = Canvas(680, 280, "Three criteria score the same sixteen weights; each keeps its six best")
    w, g = (_seeded(16, seed=1) - 0.5) * 2, (_seeded(16, seed=9) - 0.5) * 2
    words: list[tuple[core.Criterion, str]] = [
        (core.Magnitude(), "|w|"), (core.SNIP(), "|w · g|"), (core.Reversed(core.Magnitude()), "−|w|, a control"),
    ]  # fmt: skip
    for i, (word, formula) in enumerate(words):
        scores = word(w, core.Stats(grad=g))
        kept = core.select(scores, 6)
        x, base = 20 + i * 222, 210
        canvas.text(x, 28, str(word), bold=True)
        canvas.text(x, 46, f"score = {formula}", size=12, fill=SOFT)
        top = float(scores.abs().max())
        zero = base if float(scores.min()) >= 0 else base - 140
        for j, (value, keep) in enumerate(zip(scores.tolist(), kept.tolist(), strict=True)):
            height = abs(value) / top * 140
            top_y = zero - height if value >= 0 else zero
            canvas.box(x + j * 12.4, top_y, 10, max(height, 0.6), ALIVE if keep else "#c5cae9")
        canvas.path([(x, zero), (x + 198, zero)], SOFT, 1)
    canvas.legend(20, 256, [(ALIVE, "the six it keeps"), ("#c5cae9", "the others")], 150)
    return canvas


def allocation() -> Canvas:
    """How many survive where: LeNet-5 at one weight in ten."""
    shapes = {"conv1": (6, 1, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 400), "fc2": (84, 120), "fc3": (10, 84)}
    sizes = {"conv1": 150, "conv2": 2400, "fc1": 48000, "fc2": 10080, "fc3": 840}
    rules: list[core.Allocation] = [core.Uniform(), core.ER(), core.ERK(), core.UniformPlus()]
    canvas = Canvas(680, 310, "Densities of the layers of LeNet-5 under four allocations of the same budget")
    left, base, height = 60, 240, 180
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = base - share * height
        canvas.path([(left, y), (660, y)], "#eceff1", 1)
        canvas.text(left - 8, y + 4, f"{share:.0%}", at="end", size=11, fill=SOFT)
    total = 0
    for r, rule in enumerate(rules):
        counts = rule(shapes, 0.9)
        total = sum(counts.values())
        for i, name in enumerate(shapes):
            density = counts[name] / sizes[name]
            x = left + 14 + i * 120 + r * 23
            canvas.box(x, base - density * height, 20, max(density * height, 0.6), COLOURS[r])
            canvas.text(x + 10, base - density * height - 4, f"{100 * density:.0f}", at="middle", size=10, fill=SOFT)
    for i, name in enumerate(shapes):
        canvas.text(left + 60 + i * 120, base + 18, f"{name}: {sizes[name]:,}", at="middle", size=12)
    canvas.text(
        20, 28, f"Kept, per layer, in % – every rule keeps {total:,} of {sum(sizes.values()):,} weights", bold=True
    )
    canvas.legend(left, 292, [(COLOURS[r], str(rule)) for r, rule in enumerate(rules)], 130)
    return canvas


def schedule() -> Canvas:
    """When, and how much by then."""
    canvas = Canvas(680, 320, "Four schedules of the sparsity, and one of the share that moves")
    words: list[tuple[str, core.Schedule]] = [
        ("OneShot(0.9)", core.OneShot(0.9)),
        ("Linear(0.9, end=800, every=100)", core.Linear(0.9, end=800, every=100)),
        ("Cubic(0.9, end=800, every=100)", core.Cubic(0.9, end=800, every=100)),
        ("Steps((0.5, 0.75, 0.9), at=(0, 300, 600))", core.Steps((0.5, 0.75, 0.9), at=(0, 300, 600))),
        ("Cosine(0.0, initial=0.3, end=800, every=100)", core.Cosine(0.0, initial=0.3, end=800, every=100)),
    ]
    left, base, height, width = 50, 196, 160, 610
    for share in (0, 0.3, 0.6, 0.9):
        y = base - share * height
        canvas.path([(left, y), (left + width, y)], "#eceff1", 1)
        canvas.text(left - 8, y + 4, f"{share:g}", at="end", size=11, fill=SOFT)
    for i, (_, word) in enumerate(words):
        due = [(t, v) for t in range(1001) if (v := word(t)) is not None]
        shift = (i - 2) * 1.2  # so that lines on the same value can be told apart
        points, last = [], None
        for t, v in [*due, (1000, due[-1][1])]:
            x, y = left + t / 1000 * width, base - v * height + shift
            points += ([(x, last)] if last is not None else []) + [(x, y)]
            last = y
        canvas.path(points, COLOURS[i], 2, "5 3" if i == 4 else "")
        for t, v in due:
            canvas.dot(left + t / 1000 * width, base - v * height + shift, COLOURS[i])
        canvas.box(left + i % 2 * 300, 224 + i // 2 * 24, 11, 11, COLOURS[i], r=1.5)
        note = "  (share of living weights exchanged)" if i == 4 else ""
        canvas.text(left + i % 2 * 300 + 17, 234 + i // 2 * 24, f"{words[i][0]}{note}", size=12)
    for t in (0, 250, 500, 750, 1000):
        canvas.text(left + t / 1000 * width, base + 18, str(t), at="middle", size=11, fill=SOFT)
    canvas.text(20, 22, "Value by step: a dot where the mask moves, a line where it stays", bold=True)
    return canvas


def growth() -> Canvas:
    """What comes back: one update of SET and one of RigL on the same layer."""
    canvas = Canvas(680, 250, "One topology update with random growth and one with gradient growth")
    w, g = _seeded(8, 16, seed=5), _seeded(8, 16, seed=6)
    mask = core.pattern("unstructured").project(w, 40)
    kept = core.pattern("unstructured").project(w.abs(), 28, among=mask)
    grown = {
        "before": mask,
        "GrowRandom()  (SET)": core.GrowRandom()(kept, w, core.Stats(generator=torch.Generator().manual_seed(1)), 12),
        "GrowGradient()  (RigL)": core.GrowGradient()(kept, w, core.Stats(grad=g), 12),
    }
    for i, (name, after) in enumerate(grown.items()):
        x, y = 20 + i * 222, 54
        canvas.text(x, y - 14, name, bold=True)
        colours = _mask(mask if i == 0 else kept)
        for r in range(8):
            for c in range(16):
                if mask[r, c] and not kept[r, c]:
                    colours[r][c] = DROPPED if i == 0 or not after[r, c] else ALIVE
                elif after[r, c] and not mask[r, c]:
                    colours[r][c] = GROWN
        canvas.cells(x, y, colours)
        canvas.text(x, y + 116, f"{int(after.sum())} weights alive", size=12, fill=SOFT)
    canvas.legend(
        20,
        214,
        [(ALIVE, "alive"), (DEAD, "dead"), (GROWN, "grown, at zero"), (DROPPED, "dropped (the 12 smallest |w|)")],
        120,
    )
    canvas.text(20, 238, "The count before and after is the same integer.", size=12, fill=SOFT)
    return canvas


def flow() -> Canvas:
    """What a dead coordinate receives: its value over 30 steps."""
    canvas = Canvas(680, 370, "The value of one dead weight under six flows")
    flows: list[core.Flow] = [
        core.Hard(), core.StraightThrough(), core.SRSTE(decay=2.0),
        core.Fading(0.1), core.Shrinking(0.85), core.Frozen(),
    ]  # fmt: skip
    dead = torch.zeros(1, dtype=torch.bool)
    for i, word in enumerate(flows):
        x, base = 24 + i % 3 * 222, 150 + i // 3 * 160
        stored, seen, w = [], [], torch.ones(1, dtype=torch.float64)
        for t in range(31):
            w = w if t else word.update(w, w, dead, t)
            stored.append(float(w))
            seen.append(float(word.forward(w, dead, t)))
            g = word.grad(torch.full((1,), -0.3, dtype=torch.float64), w, dead, t)
            w = word.update(w - 0.05 * g, w, dead, t)  # plain SGD; the gradient pushes the weight up
        canvas.text(x, base - 112, repr(word), bold=True)
        canvas.path([(x, base), (x + 190, base)], SOFT, 1)
        for values, dash, colour in ((stored, "4 3", SOFT), (seen, "", ALIVE)):
            canvas.path([(x + t * 6.3, base - 65 * v) for t, v in enumerate(values)], colour, 2, dash)
        canvas.text(x - 4, base - 61, "1", at="end", size=11, fill=SOFT)
        canvas.text(x - 4, base + 4, "0", at="end", size=11, fill=SOFT)
    canvas.path([(24, 340), (48, 340)], ALIVE)
    canvas.text(54, 344, "what the layer computes with", size=12)
    canvas.path([(240, 340), (264, 340)], SOFT, 2, "4 3")
    canvas.text(270, 344, "what is stored behind the mask", size=12)
    canvas.text(470, 344, "30 steps of SGD, w = 1 at first", size=12, fill=SOFT)
    return canvas


def mask() -> Canvas:
    """The answer itself: two masks of one layer, compared."""
    canvas = Canvas(680, 230, "Two masks of one layer, their overlap and their churn")
    one = core.MaskSet({"w": core.select(_seeded(8, 16, seed=7), 40)})
    two = core.MaskSet({"w": core.select(_seeded(8, 16, seed=7) + 0.5 * _seeded(8, 16, seed=8), 40)})
    for i, (name, found) in enumerate((("a", one), ("b", two))):
        canvas.text(20 + i * 222, 40, name, bold=True)
        canvas.cells(20 + i * 222, 54, _mask(found["w"]))
        canvas.text(20 + i * 222, 170, f"{name}.kept() = {found.kept()}", size=12, fill=SOFT)
    colours = [
        [ALIVE if p and q else DROPPED if p else GROWN if q else DEAD for p, q in zip(r, s, strict=True)]
        for r, s in zip(one["w"].tolist(), two["w"].tolist(), strict=True)
    ]
    canvas.text(464, 40, "a against b", bold=True)
    canvas.cells(464, 54, colours)
    canvas.text(464, 170, f"overlap {one.overlap(two):.2f}, churn {one.churn(two):.2f}", size=12, fill=SOFT)
    canvas.legend(
        20, 198, [(ALIVE, "alive in both"), (DROPPED, "only in a"), (GROWN, "only in b"), (DEAD, "in neither")], 130
    )
    size = one.pack()["w"]["bits"].numel()
    canvas.text(
        20, 220, f"packed: {size} bytes for {one.numel()} weights; digest {one.digest()[:16]}…", size=12, fill=SOFT
    )
    return canvas


def step() -> Canvas:
    """Where the library acts in one optimizer step."""
    canvas = Canvas(
        680, 250, "One training step: your lines, and what the sparsifier's two hooks do around optimizer.step()"
    )
    boxes: list[tuple[str, list[str], bool]] = [
        ("model(x)", ["plain modules,", "no forward hook"], False),
        ("loss.backward()", ["dense gradients"], False),
        ("before the update", ["read statistics", "flow.grad"], True),
        ("optimizer.step()", ["any optimizer"], False),
        ("after the update", ["flow.update, zeros", "in w and momentum;", "masks move if due"], True),
    ]
    for i, (title, lines, ours) in enumerate(boxes):
        x = 14 + i * 133
        canvas.box(x, 70, 120, 104, "#e8eaf6" if ours else "#fafafa", ALIVE if ours else "#cfd8dc", 6)
        canvas.text(x + 60, 94, title, at="middle", size=11, bold=True)
        for j, line in enumerate(lines):
            canvas.text(x + 60, 118 + j * 18, line, at="middle", size=10, fill=SOFT)
        if i:
            canvas.path([(x - 13, 122), (x - 2, 122)], INK, 1.5)
            canvas.path([(x - 7, 118), (x - 2, 122), (x - 7, 126)], INK, 1.5)
    canvas.text(14, 40, "One training step", bold=True, size=14)
    canvas.legend(
        14, 208, [("#cfd8dc", "your loop, unchanged"), (ALIVE, "hooks that attach() put on the optimizer")], 180
    )
    canvas.text(
        14, 236, "finalize_() removes the hooks; what is left are plain modules with zeros in them.", size=12, fill=SOFT
    )
    return canvas


def icon() -> Canvas:
    """The favicon: a small mask."""
    canvas = Canvas(48, 48, "sparseland")
    canvas.cells(6, 6, _mask(core.pattern("1:3").project(_seeded(3, 3, seed=2), 3)), 12.4)
    return canvas


PICTURES: dict[str, Callable[[], Canvas]] = {
    made.__name__: made for made in (pattern, criterion, allocation, schedule, growth, flow, mask, step, icon)
}


def drawn() -> dict[str, str]:
    """Every picture's text by its file's name."""
    return {f"{name}.svg": make().svg() for name, make in PICTURES.items()}


def main(argv: list[str] | None = None, folder: Path = FOLDER) -> int:
    """Write or check; 1 if something is stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(argv).check
    stale = 0
    for name, text in drawn().items():
        place: Any = folder / name
        if place.is_file() and place.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        print(f"{name} is stale: run python tools/docs_pictures.py" if check else f"wrote {name}")
        if not check:
            folder.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
