"""Where the activations of ``sparseland features`` come from: array files, stored folders, models with a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ..features.activations import ModelActivations

ARRAYS = (".npy", ".npz", ".safetensors")


@dataclass
class Given:
    """Activations to train on and to measure on, and the model behind them, if there is one.

    train, test: sources (test None: nothing is held out). model: a source on the held-out text. spell: from a token's
    id to its text. language: whether the model predicts the next token.
    """

    train: Any
    test: Any
    model: ModelActivations | None = None
    spell: Callable[[int], str] = str
    language: bool = False
    rows: int | None = None


def open_source(
    path: Path, *, layer: str | None, text: Path | None, length: int, held: float, gradient: str | None, seed: int
) -> Given:
    """What a path holds, split into training and held-out rows.

    Parameters:
        path: .npy (n, d), .npz or .safetensors with ``x`` and perhaps ``g`` (n, d), a folder that `store` wrote, or the
            folder of a `transformers` model with its tokenizer.
        layer, text: of a model. length: tokens of a sequence. held: share held out, from the end, in [0, 1).
        gradient: None, "next_token" or "self": pairs are wanted.

    Raises:
        DataNotFound, RecipeError: nothing there, or nothing of these; options that do not go together.
    """
    from ..core.errors import DataNotFound, RecipeError

    if not 0 <= held < 1:
        raise RecipeError(f"--held-out is a share in [0, 1); got {held}")
    if not path.exists():
        raise DataNotFound(f"no file or folder {path}")
    if path.is_dir() and (path / "config.json").is_file() and not (path / "activations.json").is_file():
        if layer is None or text is None:
            raise RecipeError(f"{path} is a model: --layer NAME and --text FILE say what to read of it")
        return _model(path, layer, text, length, held, gradient, seed)
    if layer is not None or text is not None:
        raise RecipeError(f"--layer and --text go with a model's folder; {path} has no config.json")
    if path.is_dir():
        return _stored(path, held, gradient)
    if path.suffix not in ARRAYS:
        raise RecipeError(f"{path.name}: activations are read from {', '.join(ARRAYS)} or a folder")
    x, g = _arrays(path)
    if gradient is not None and g is None:
        raise RecipeError(f"--select gradient needs pairs; {path.name} has no array g beside x")
    if gradient is None:
        g = None
    cut = len(x) - int(held * len(x))
    train = x[:cut] if g is None else (x[:cut], g[:cut])
    return Given(train, x[cut:] if cut < len(x) else None, rows=cut)


def _arrays(path: Path) -> tuple[Tensor, Tensor | None]:
    import numpy as np
    import torch

    from ..core.errors import RecipeError

    found: dict[str, Any]
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(path)
        elif path.suffix == ".npy":
            found = {"x": np.load(path, allow_pickle=False)}
        else:
            with np.load(path, allow_pickle=False) as file:
                found = dict(file)
    except Exception as error:  # zip, header and safetensors errors have nothing in common
        raise RecipeError(f"{path} cannot be read: {error}") from error
    name = "x" if "x" in found else next(iter(found)) if len(found) == 1 else None
    if name is None:
        raise RecipeError(f"{path.name} holds {', '.join(sorted(found)) or 'nothing'}; the activations are called x")
    x = torch.as_tensor(found[name])
    if not x.is_floating_point() or x.ndim < 2:
        raise RecipeError(f"{path.name}: {name} is {x.dtype} {tuple(x.shape)}; activations are floating (…, d)")
    g = torch.as_tensor(found["g"]) if "g" in found else None
    if g is not None and g.shape != x.shape:
        raise RecipeError(f"{path.name}: x is {tuple(x.shape)}, g {tuple(g.shape)}")
    width = x.shape[-1]
    return x.reshape(-1, width).float(), None if g is None else g.reshape(-1, width).float()


def _stored(path: Path, held: float, gradient: str | None) -> Given:
    """The last shards are held out, at least one if there are two."""
    from ..core.errors import RecipeError
    from ..features.activations import StoredActivations

    whole = StoredActivations(path)
    if gradient is not None and not whole.pairs:
        raise RecipeError(f"--select gradient needs pairs; {path} was stored without gradients")
    count = len(whole.shards)
    cut = count - (min(max(round(held * count), 1), count - 1) if held else 0)
    return Given(
        _Shards(whole, 0, cut, gradient is None),
        _Shards(whole, cut, count, True) if cut < count else None,
        rows=sum(whole.shards[:cut]),
    )


class _Shards:
    """Some shards of a folder, with or without their gradients."""

    repeats = True

    def __init__(self, whole: Any, first: int, end: int, plain: bool) -> None:
        self.whole, self.first, self.end, self.plain = whole, first, end, plain

    def blocks(self, epoch: int, start: int) -> Any:
        import itertools

        wanted = max(self.end - self.first - start, 0)
        for item in itertools.islice(self.whole.blocks(epoch, self.first + start), wanted):
            yield item[0] if self.plain and isinstance(item, tuple) else item


def _model(path: Path, layer: str, text: Path, length: int, held: float, gradient: str | None, seed: int) -> Given:
    from ..core.errors import DataNotFound, RecipeError
    from ..features.activations import ModelActivations

    if not text.is_file():
        raise DataNotFound(f"no text file {text}")
    if length < 2:
        raise RecipeError(f"--length is at least 2 tokens; got {length}")
    model, tokenizer, language = _load(path)
    if gradient == "next_token" and not language:
        raise RecipeError(f"--select gradient needs a model that predicts the next token; {path.name} has no such head")
    words = text.read_text(encoding="utf-8", errors="replace")
    inputs, count = _ids(tokenizer, words, length, language)
    cut = count - int(held * count)
    if cut < 1 or (held and cut == count):
        raise RecipeError(
            f"{text.name} makes {count} sequences of {length} tokens: too few to hold {held:g} of them out"
        )
    special = list(tokenizer.all_special_ids)
    options: dict[str, Any] = {"special": special, "batch": 32, "seed": seed}
    train = ModelActivations(model, layer, {k: v[:cut] for k, v in inputs.items()}, gradient=gradient, **options)
    test = None
    if cut < count:
        test = ModelActivations(model, layer, {k: v[cut:] for k, v in inputs.items()}, shuffle=False, **options)
    return Given(train, test, test, lambda i: str(tokenizer.decode([i])), language)


def _load(path: Path) -> tuple[Any, Any, bool]:
    from ..core.errors import RecipeError

    try:
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise RecipeError("reading a model needs transformers: pip install 'sparseland[hf]'") from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        names = " ".join(getattr(config, "architectures", None) or [])
        language = "CausalLM" in names or "LMHead" in names
        kind = AutoModelForCausalLM if language else AutoModel
        model = kind.from_pretrained(path, local_files_only=True).eval().requires_grad_(False)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(f"{path} cannot be opened as a model with its tokenizer: {error}") from error
    return model, tokenizer, language


def _ids(tokenizer: Any, words: str, length: int, language: bool) -> tuple[dict[str, Tensor], int]:
    """Of a language model the text in pieces of equal length; of an encoder its lines, padded."""
    import torch

    from ..core.errors import RecipeError

    if language:
        found = torch.tensor(tokenizer(words, add_special_tokens=False)["input_ids"], dtype=torch.long)
        count = len(found) // length
        return {"input_ids": found[: count * length].view(-1, length)}, count
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    if not lines:
        raise RecipeError("the text has no lines")
    options = {"truncation": True, "max_length": length, "padding": "max_length", "return_tensors": "pt"}
    made = dict(tokenizer(lines, **options))
    return made, len(lines)
