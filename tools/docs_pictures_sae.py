"""Draw the pictures of the tutorial on sparse autoencoders.

    python tools/docs_pictures_sae.py            write docs/pictures/sparse-autoencoders-*.svg (a minute)

The first shows what `core.matching.allocate` returns. The second trains an autoencoder on patches of scikit-learn's two
photographs and shows rows of its decoder; its bytes depend on the machine's arithmetic, so nothing checks them.
"""

from __future__ import annotations

import base64
import struct
import sys
import zlib
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from docs_pictures import ALIVE, DEAD, FOLDER, INK, SOFT, Canvas, _mask, _seeded

from sparseland.core.matching import allocate

ACROSS, DOWN = 16, 6


def rules() -> Canvas:
    """Sixteen codes for eight tokens over sixteen features, under four rules; some tokens have more to say."""
    canvas = Canvas(680, 236, "Four rules spend sixteen codes on the same eight tokens")
    scores = _seeded(8, 16, seed=5) * torch.linspace(0.35, 1.0, 8, dtype=torch.float64)[:, None]
    counts = torch.tensor([5, 3, 2, 1, 1, 1, 1, 1, 1] + [0] * 7)
    for i, (rule, words) in enumerate(
        (
            ("token", "2 of every token"),
            ("mutual", "16 of the batch"),
            ("feature", "m of a feature"),
            ("groupmax", "1 of each half"),
        )
    ):
        x = 20 + i * 166
        canvas.text(x, 30, rule, bold=True)
        canvas.text(x, 48, words, size=12, fill=SOFT)
        canvas.cells(x, 60, _mask(allocate(scores, rule, 2, counts=counts)), 9.4)
    canvas.text(20, 168, "rows: tokens, the last with the largest scores; columns: features", size=12, fill=SOFT)
    canvas.legend(20, 200, [(ALIVE, "active"), (DEAD, "zero")], 90)
    return canvas


def png(picture: Tensor) -> str:
    """A grey picture, 0 … 1, as a data address."""
    height, width = picture.shape
    grey = (picture.clamp(0, 1) * 255).to(torch.uint8)
    raw = b"".join(b"\x00" + bytes(row.tolist()) for row in grey)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def trained() -> tuple[Tensor, Tensor]:
    """(decoder rows, densities) of mutual choice on whitened patches of two photographs."""
    from sklearn.datasets import load_sample_images

    from sparseland.features import SAEConfig, SparseAutoencoder, train

    torch.manual_seed(0)
    found = []
    for photo in load_sample_images().images:
        grey = torch.tensor(photo).float().mean(2) / 255
        views = grey.unfold(0, 8, 1).unfold(1, 8, 1).reshape(-1, 64)
        found.append(views[torch.randperm(len(views))[:40_000]])
    x = torch.cat(found)
    x = x - x.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(torch.cov(x.t()))
    root = values.clamp(min=float(values.max()) * 3e-3)
    white = x @ (vectors * root.rsqrt()) @ vectors.t()
    config = SAEConfig(64, 192, activation="batchtopk", k=5, normalize="token_rms", aux="aux_k", dead_window=100_000)
    sae = SparseAutoencoder(config)
    train(sae, white, steps=2000, batch=512, lr=2e-3, progress=False)
    seen = sae.W_dec.detach() @ (vectors * root.sqrt()) @ vectors.t()  # back to pixels
    return seen, sae.densities


def features() -> Canvas:
    """The decoder's rows as pictures, the most frequent first, and how often each fires."""
    decoder, density = trained()
    order = density.sort(descending=True).indices
    canvas = Canvas(680, 300, "What an autoencoder finds in patches of two photographs")
    sheet = torch.ones(DOWN * 9 - 1, ACROSS * 9 - 1)
    for place, feature in enumerate(order[: ACROSS * DOWN].tolist()):
        row = decoder[feature].view(8, 8)
        down, across = place // ACROSS * 9, place % ACROSS * 9
        sheet[down : down + 8, across : across + 8] = 0.5 + 0.5 * row / row.abs().max()
    canvas.text(20, 30, f"{ACROSS * DOWN} of {len(order)} decoder rows, the most frequent first", bold=True)
    canvas.lines.append(
        f'<image x="20" y="44" width="429" height="159" href="{png(sheet)}" style="image-rendering:pixelated"/>'
    )
    canvas.text(480, 30, "share of patches", bold=True)
    top = float(density.max())
    ranked = density[order]
    points = [(480 + 180 * i / len(order), 203 - 155 * float(ranked[i]) / top) for i in range(len(order))]
    canvas.path([(480, 203), (660, 203)], SOFT, 1)
    canvas.path(points, ALIVE)
    canvas.text(480, 222, "1", size=12, fill=SOFT)
    canvas.text(660, 222, f"rank {len(order)}", at="end", size=12, fill=SOFT)
    canvas.text(486, 58, f"{100 * top:.0f} %", size=12, fill=INK)
    canvas.text(20, 240, "8×8 patches, whitened, scaled to one norm; 192 features, 5 codes a patch on average",
                size=12, fill=SOFT)  # fmt: skip
    canvas.text(20, 262, f"mutual choice; features that fire: {int((density > 0).sum())} of {len(order)}",
                size=12, fill=SOFT)  # fmt: skip
    return canvas


def main() -> None:
    """Write both."""
    for name, draw in (("rules", rules), ("features", features)):
        path = FOLDER / f"sparse-autoencoders-{name}.svg"
        path.write_text(draw().svg(), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
