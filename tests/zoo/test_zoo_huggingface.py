"""transformers models from configurations and from local folders; the hub itself is never asked."""

from __future__ import annotations

import sys

import pytest
import torch

from sparseland.core.errors import DataNotFound, SparselandError
from sparseland.zoo import build, logits

# Other people's deprecations, raised while the package is imported, are not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore")
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 4}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("transformers")


def test_vit_from_a_configuration(hub) -> None:
    before = torch.get_rng_state()
    one, two = (build("hf:config:vit", in_shape=(1, 8, 8), classes=10, seed=0, **TINY) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert type(one).__name__ == "ViTForImageClassification"
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert logits(one(torch.zeros(2, 1, 8, 8))).shape == (2, 10)


def test_bert_from_a_configuration(hub) -> None:
    model = build("hf:config:bert", in_shape=None, classes=3, seed=0, **TEXT)
    assert type(model).__name__ == "BertForSequenceClassification"
    assert logits(model(torch.zeros(2, 5, dtype=torch.long))).shape == (2, 3)


def test_a_saved_model_with_a_new_head(hub, tmp_path) -> None:
    model = build("hf:config:vit", in_shape=(3, 8, 8), classes=10, seed=0, **TINY)
    model.save_pretrained(tmp_path / "vit")
    same = build(f"hf:{tmp_path}/vit", in_shape=(3, 8, 8), classes=10)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
    other = build(f"hf:{tmp_path}/vit", in_shape=(3, 8, 8), classes=4, seed=1)
    assert other.classifier.weight.shape == (4, 16)
    assert torch.equal(other.vit.embeddings.cls_token, model.vit.embeddings.cls_token)
    with pytest.raises(SparselandError, match=r"images of 3 channel\(s\); in_shape is \(1, 8, 8\)"):
        build(f"hf:{tmp_path}/vit", in_shape=(1, 8, 8), classes=10)


def test_what_is_wrong_is_said(hub, tmp_path) -> None:
    with pytest.raises(SparselandError, match=r"unknown model type 'hf:config:vitt': did you mean 'vit'"):
        build("hf:config:vitt", in_shape=(3, 8, 8), classes=2)
    with pytest.raises(SparselandError, match="has no 'hidden_sise': did you mean 'hidden_size'"):
        build("hf:config:vit", in_shape=(3, 8, 8), classes=2, hidden_sise=8)
    with pytest.raises(SparselandError, match="patches of 16×16, which do not tile 8×8; give patch_size="):
        build("hf:config:vit", in_shape=(3, 8, 8), classes=2)
    with pytest.raises(DataNotFound, match=r"looked for a model saved with save_pretrained.*no config\.json"):
        build(f"hf:{tmp_path}/absent", in_shape=(3, 8, 8), classes=2)
    with pytest.raises(SparselandError, match="needs a name, a folder, or 'config:"):
        build("hf:", in_shape=(3, 8, 8), classes=2)


def test_no_hub_is_a_clear_error(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name, **kw):
        assert kw["trust_remote_code"] is False
        raise OSError("no route to the hub")

    monkeypatch.setattr(hub.AutoConfig, "from_pretrained", offline)
    with pytest.raises(DataNotFound, match=r"'hf:owner/name'.*OSError: no route.*save_pretrained"):
        build("hf:owner/name", in_shape=(3, 8, 8), classes=2)


def test_no_package_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DataNotFound, match=r"pip install 'sparseland\[hf\]'"):
        build("hf:config:vit", in_shape=(3, 8, 8), classes=2)
