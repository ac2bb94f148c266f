"""Top activations against a search through everything; the page is whole, safe and loads nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparseland.core.errors import OutputError, SparselandError
from sparseland.features import SAEConfig, SparseAutoencoder
from sparseland.features.activations import ModelActivations
from sparseland.features.dashboard import promoted, top_activations, visible, write_dashboard

IDS = torch.randint(20, (15, 9), generator=torch.Generator().manual_seed(0))
WORDS = ["<b>", "&", '"', "\n", " ", *"abcdefghijklmno"]


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(20, 6), nn.Linear(6, 20, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.embed(ids).cumsum(1))
        return out

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


@pytest.fixture
def sae() -> SparseAutoencoder:
    return SparseAutoencoder(SAEConfig(6, 18, k=2)).eval()


def source(**options: Any) -> ModelActivations:
    return ModelActivations(Reader(), "embed", IDS, batch=4, shuffle=False, **options)


def test_top_places_are_the_strongest_one_a_sequence(sae: SparseAutoencoder) -> None:
    found = top_activations(sae, source(), latents=range(18), top=3, context=2)
    with torch.no_grad():
        codes = sae.encode(source().model.embed(IDS))  # type: ignore[union-attr, operator]
    for one in found:
        mine = codes[..., one["latent"]]
        best = mine.amax(1).sort(descending=True).values[:3]
        values = [place["value"] for place in one["places"]]
        assert values == pytest.approx([float(v) for v in best if v > 0])
        assert one["density"] == pytest.approx(float((mine > 0).float().mean()))
        assert sum(one["counts"]) == int((mine > 0).sum())
        for place in one["places"]:
            assert place["values"][place["at"]] == pytest.approx(place["value"])
            assert 3 <= len(place["ids"]) <= 5
            assert max(place["values"]) <= one["largest"] + 1e-6


def test_contexts_are_what_stands_in_the_text(sae: SparseAutoencoder) -> None:
    texts = [" ".join(map(str, row)) for row in IDS.tolist()]
    for one in top_activations(sae, source(), latents=4, top=5, context=3):
        for place in one["places"]:
            assert any(" ".join(map(str, place["ids"])) in text for text in texts)


def test_chosen_features_are_alive_and_spread_by_density(sae: SparseAutoencoder) -> None:
    found = top_activations(sae, source(), latents=5)
    densities = [one["density"] for one in found]
    assert len(found) == 5 and densities == sorted(densities, reverse=True) and densities[-1] > 0
    every = top_activations(sae, source(), latents=range(18))
    assert densities[0] == max(one["density"] for one in every)
    named = top_activations(sae, source(), latents=[7, 2])
    assert [one["latent"] for one in named] == [7, 2]


def test_skipped_places_are_not_shown_as_active(sae: SparseAutoencoder) -> None:
    for one in top_activations(sae, source(skip_first=4), latents=range(18), context=9):
        for place in one["places"]:
            assert place["at"] >= 4 and all(v == 0 for v in place["values"][:4])


def test_promoted_tokens_by_hand(sae: SparseAutoencoder) -> None:
    model = Reader()
    change = model.head.weight @ sae.W_dec[3]
    up, down = promoted(sae, model, 3, 4) or ([], [])
    assert up == change.topk(4).indices.tolist() and down == (-change).topk(4).indices.tolist()
    assert promoted(sae, nn.Linear(2, 2), 3) is None


class _Looks(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.spans = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "input", "br", "link", "img"):
            self.open.append(tag)
        self.spans += tag == "span"
        self.links += [v or "" for name, v in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag


def test_the_page_is_whole_and_alone(sae: SparseAutoencoder, tmp_path: Path) -> None:
    path = write_dashboard(
        sae, source(), tmp_path / "deep" / "page.html", decode=WORDS.__getitem__, latents=6, title="<Features>"
    )
    text = path.read_text()
    page = _Looks()
    page.feed(text)
    assert page.open == [] and page.links == [] and "http" not in text
    assert text.count("<article") == 6 and "&lt;Features&gt;" in text
    assert "<b></span>" not in text and "&lt;b&gt;" in text  # tokens are text, never markup
    assert re.search(r'style="--v:1\.0" class="at"', text)
    assert "raises" in text and "↵" in text
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_a_feature_that_is_never_active(sae: SparseAutoencoder, tmp_path: Path) -> None:
    with torch.no_grad():
        sae.b_enc[4] = -1e3
    found = top_activations(sae, source(), latents=[4])[0]
    assert found["places"] == [] and found["density"] == 0
    assert "never active" in write_dashboard(sae, source(), tmp_path / "a.html", latents=[4]).read_text()


def test_what_cannot_be_shown(sae: SparseAutoencoder, tmp_path: Path) -> None:
    with pytest.raises(SparselandError, match="features are numbers from 0 to 17; got \\[18\\]"):
        top_activations(sae, source(), latents=[18])
    for options in ({"top": 0}, {"context": -1}, {"sequences": 0}, {"latents": 0}):
        with pytest.raises(SparselandError):
            top_activations(sae, source(), **options)  # type: ignore[arg-type]
    with pytest.raises(SparselandError, match=r"an \.html file"):
        write_dashboard(sae, source(), tmp_path / "page.txt")
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(OutputError):
        write_dashboard(sae, source(), tmp_path / "taken.html", latents=1)
    floats = ModelActivations(nn.Sequential(nn.Linear(3, 6)), "0", torch.randn(4, 3))
    with pytest.raises(SparselandError, match="token ids"):
        top_activations(sae, floats)


def test_visible() -> None:
    assert visible("a\r\n\tb") == "a↵⇥b"
