"""safetensors in, strictly; the trained CIFAR ResNets and what they score."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from sparseland.core.errors import DataNotFound, SparselandError
from sparseland.data import Split, batches
from sparseland.data.packed import cifar10_jpeg
from sparseland.zoo import PRETRAINED, PRETRAINED_MEAN, PRETRAINED_STD, build, load_weights, pretrained


def _mlp(**kw):
    return build("mlp-8", **{"in_shape": (1, 4, 4), "classes": 3, **kw})


def test_a_round_trip_is_bit_equal(tmp_path) -> None:
    one, two = _mlp(seed=0), _mlp(seed=1)
    save_file(one.state_dict(), tmp_path / "m.safetensors")
    assert load_weights(two, tmp_path / "m.safetensors") is two
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_differences_are_listed_and_nothing_is_loaded(tmp_path) -> None:
    path = tmp_path / "m.safetensors"
    state = _mlp(seed=0).state_dict()
    wrong = {"fc1.weight": torch.zeros(8, 9), "extra": torch.zeros(1), "fc2.weight": state["fc2.weight"]}
    save_file(wrong, path)
    model = _mlp(seed=1)
    before = model.fc2.weight.clone()
    with pytest.raises(SparselandError) as caught:
        load_weights(model, path)
    for part in ("does not fit MLP", "2 missing (fc1.bias; fc2.bias)", "1 not in the model (extra)",
                 "fc1.weight is [8, 9], the model has [8, 16]"):  # fmt: skip
        assert part in str(caught.value)
    assert torch.equal(before, model.fc2.weight)


def test_files_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(DataNotFound, match="no weights at"):
        load_weights(_mlp(), tmp_path / "absent.safetensors")
    (tmp_path / "m.pt").write_bytes(b"x")
    with pytest.raises(SparselandError, match=r"from \.safetensors files only"):
        load_weights(_mlp(), tmp_path / "m.pt")
    (tmp_path / "m.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(SparselandError, match="damaged or no safetensors"):
        load_weights(_mlp(), tmp_path / "m.safetensors")


def test_where_trained_weights_are_looked_for(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSELAND_DATA", raising=False)
    with pytest.raises(DataNotFound, match=r"cifar-resnets/resnet20\.safetensors but no data folder.*SPARSELAND_DATA"):
        pretrained("resnet-20")
    with pytest.raises(DataNotFound, match=f"looked for cifar-resnets/resnet56.safetensors in {tmp_path}"):
        pretrained("resnet-56", folder=tmp_path)
    with pytest.raises(SparselandError, match=r"no trained weights for 'resnet-110'.*possible|did you mean"):
        pretrained("resnet-110")


@pytest.mark.parametrize("name", sorted(PRETRAINED))
def test_trained_resnets_load(data_folder, name: str) -> None:
    model = pretrained(name, folder=data_folder)
    assert not model.training
    assert type(model) is type(build(name, in_shape=(3, 32, 32), classes=10))


def _score(name: str, data_folder, count: int, mean=PRETRAINED_MEAN, std=PRETRAINED_STD) -> float:
    """Percent of the first ``count`` test images that are classified correctly."""
    model = pretrained(name, folder=data_folder)
    test = _test_images(data_folder, count)
    with torch.inference_mode():
        right = sum(
            int((model(x).argmax(1) == y).sum()) for x, y in batches(test, 250, mean=mean, std=std, shuffle=False)
        )
    return 100 * right / len(test)


def _test_images(data_folder, count: int):
    """Only these test images are decoded, not the whole dataset."""
    pool = cifar10_jpeg(data_folder).test
    index = torch.arange(count)
    return Split(pool.take(index), pool.labels[index])


def test_resnet20_on_a_prefix(data_folder) -> None:
    # 80.35 % on the first 2,000 test images, 81.03 % on all 10,000; other arithmetic may turn a few images.
    assert _score("resnet-20", data_folder, 2000) == pytest.approx(80.35, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "percent"), [("resnet-20", 81.03), ("resnet-32", 82.56), ("resnet-44", 82.67), ("resnet-56", 83.20)]
)
def test_scores_on_all_test_images(data_folder, name: str, percent: float) -> None:
    assert _score(name, data_folder, 10_000) == pytest.approx(percent, abs=0.1)


@pytest.mark.slow
def test_the_normalisation_of_the_original_training_is_the_better_one(data_folder) -> None:
    cifar = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
    assert _score("resnet-20", data_folder, 10_000, **cifar) == pytest.approx(80.73, abs=0.1)


def test_dataset_and_weights_agree_on_the_normalisation(data_folder) -> None:
    source = cifar10_jpeg(data_folder)
    assert (source.mean, source.std) == (PRETRAINED_MEAN, PRETRAINED_STD)
