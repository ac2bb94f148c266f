"""The callback in a real Lightning `Trainer` on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sparseland.core.errors import OwnershipError, ResumeError
from sparseland.data import load
from sparseland.zoo import build

pl = pytest.importorskip("lightning.pytorch")
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402

from sparseland.train.lightning import SparsityCallback  # noqa: E402 - needs lightning

RIGL = {"name": "rigl", "sparsity": 0.8, "every": 4, "end": 0.75}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Lightning's own warnings: a deprecation of torch's pytree, advice on loaders, checkpoints in a new folder."""
    with warnings.catch_warnings():
        for text in (
            r".*LeafSpec.*",
            r".*does not have many workers.*",
            r".*dirpath has changed.*",
            r".*num_workers.*",
        ):
            warnings.filterwarnings("ignore", message=text)
        yield


class Net(pl.LightningModule):  # type: ignore[misc]
    """An MLP on digits."""

    def __init__(self, rate: float = 0.05) -> None:
        super().__init__()
        self.net, self.rate = build("mlp-32", in_shape=(1, 8, 8), classes=10, seed=0), rate

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9, weight_decay=1e-3)


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Any]:
    split = load("digits", limit=256).train
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(split.images, split.labels), batch_size=32)

    def run(callback: Any, name: str, module: Any = None, ckpt: str | None = None, **settings: Any) -> Any:
        module = module or Net()
        saver = ModelCheckpoint(tmp_path / name, filename="{epoch}", save_top_k=-1)
        trainer = pl.Trainer(
            **{"max_epochs": 4, **settings}, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, callbacks=[callback, saver],
        )  # fmt: skip
        trainer.fit(module, loader, ckpt_path=ckpt)
        return trainer

    return run


def _equal(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_trains_sparse_logs_and_ends_plain(fit: Any) -> None:
    callback, module = SparsityCallback(RIGL), Net()
    keys, start = list(module.state_dict()), module.net.fc1.weight.detach().clone()
    trainer = fit(callback, "a", module)
    sp = callback.sparsifier
    assert sp is not None and sp.step == 32 and sp.sparsity == pytest.approx(0.8, abs=1e-3)
    assert len(sp.history) > 4 and sp.explored() > 0.25  # masks moved, by gradients of the same step
    assert list(module.state_dict()) == keys and not torch.equal(start, module.net.fc1.weight)
    zeros = sum(int((p == 0).sum()) for n, p in module.named_parameters() if n.endswith("weight"))
    assert zeros == sp.masks.numel() - sp.masks.kept()
    assert float(trainer.callback_metrics["sparsity"]) == pytest.approx(0.8, abs=1e-3)


def test_equals_a_plain_loop(fit: Any) -> None:
    """Lightning hands forward and backward to the optimizer as a closure; the result must not depend on that."""
    from sparseland import methods

    module = Net()
    fit(SparsityCallback(RIGL), "a", module)
    plain = Net()
    optimizer = plain.configure_optimizers()
    sp = methods.RigL(0.8, every=4, end=0.75).attach(plain, optimizer, steps=32)
    split = load("digits", limit=256).train
    for _ in range(4):
        for index in range(0, 256, 32):
            optimizer.zero_grad()
            plain.training_step((split.images[index : index + 32], split.labels[index : index + 32]), 0).backward()
            optimizer.step()
    sp.finalize_()
    assert _equal(plain, module)


@pytest.mark.parametrize("method", [RIGL, {"name": "sr-ste"}, {"name": "movement", "sparsity": 0.8, "every": 4}],
                         ids=lambda m: m["name"])  # fmt: skip
def test_resumed_equals_unbroken(fit: Any, tmp_path: Path, method: dict[str, Any]) -> None:
    whole, resumed = Net(), Net()
    fit(SparsityCallback(method), "a", whole)
    callback = SparsityCallback(method)
    fit(callback, "b", resumed, ckpt=str(tmp_path / "a" / "epoch=1.ckpt"))
    assert callback.sparsifier is not None and callback.sparsifier.step == 32
    assert _equal(whole, resumed)
    checkpoint = torch.load(tmp_path / "a" / "epoch=1.ckpt", weights_only=True)  # data only
    assert "sparsifier" in checkpoint["callbacks"]["SparsityCallback"]


def test_keeps_zeros_and_resumes(fit: Any, tmp_path: Path) -> None:
    module = Net()
    fit(SparsityCallback(RIGL), "a", module)
    dead = module.net.fc1.weight == 0
    callback = SparsityCallback()
    fit(callback, "k", module, max_epochs=2)
    assert bool((module.net.fc1.weight[dead] == 0).all()) and not bool((module.net.fc1.weight == 0).all())
    again = Net()
    fit(SparsityCallback(), "l", again, max_epochs=2, ckpt=str(tmp_path / "k" / "epoch=0.ckpt"))
    assert _equal(module, again)


def test_mistakes(fit: Any, tmp_path: Path) -> None:
    fit(SparsityCallback(RIGL), "a", max_epochs=1)
    ckpt = str(tmp_path / "a" / "epoch=0.ckpt")
    with pytest.raises(ResumeError, match="another method"):
        fit(SparsityCallback({"name": "set", "sparsity": 0.8, "every": 4}), "b", ckpt=ckpt)
    with pytest.raises(OwnershipError, match=r"optimizer=1, but configure_optimizers gave 1"):
        fit(SparsityCallback(RIGL, optimizer=1), "c")
