"""``sparseland features``: train sparse autoencoders on activations, and look at what they found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from .features_source import Given

Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="Array file, stored folder, or a model's folder.")]
Layer = Annotated[str | None, typer.Option("--layer", help="Of a model, as in transformer.h.2.")]
Text = Annotated[Path | None, typer.Option("--text", help="What the model reads: a text file.")]
Length = Annotated[int, typer.Option("--length", help="Tokens of a sequence of the text.")]
Held = Annotated[float, typer.Option("--held-out", help="Share kept for measuring, from the end.")]
SHOWN = {
    "fvu": "NMSE", "nmse_per_token": "NMSE per token", "cosine": "cosine", "l0": "L0", "l0_std": "L0, deviation",
    "dead": "dead", "gini": "Gini of densities", "mean_active": "mean active value",
}  # fmt: skip


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    verb = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Sparse autoencoders on activations.")
    verb.command("train")(train)
    verb.command("inspect")(inspect)
    app.add_typer(verb, name="features")


def train(
    source: Source,
    out: Annotated[Path, typer.Option("--out", help="Folder: checkpoint, then cfg.json and safetensors.")],
    features: Annotated[int | None, typer.Option("--features", help="How many; 16 times the width.")] = None,
    activation: Annotated[
        str, typer.Option("--activation", help="topk, batchtopk, feature, mutual_then_feature, groupmax, jumprelu, …")
    ] = "topk",
    k: Annotated[int, typer.Option("-k", "--k", help="Active features of a token, on average.")] = 32,
    select: Annotated[str, typer.Option("--select", help="activation, gradient (labels) or self.")] = "activation",
    beta: Annotated[float | None, typer.Option("--beta", help="Weight of the gradient; 1.")] = None,
    grad_norm: Annotated[str, typer.Option("--grad-norm", help="none, batch_rms or token_l2.")] = "token_l2",
    normalize: Annotated[str, typer.Option("--normalize", help="none, layer_norm, expected_l2 or token_rms.")] = "none",
    aux: Annotated[str, typer.Option("--aux", help="For dead features: none, aux_k or aux_zipf.")] = "aux_k",
    dead_window: Annotated[int, typer.Option("--dead-window", help="Tokens without firing.")] = 1_000_000,
    steps: Annotated[int, typer.Option("--steps", help="Of the optimizer.")] = 1000,
    batch: Annotated[int, typer.Option("--batch", help="Tokens of a step.")] = 1024,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate; by the number of features.")] = None,
    buffer: Annotated[int, typer.Option("--buffer", help="Tokens that are shuffled together.")] = 65_536,
    seed: Annotated[int, typer.Option("--seed", help="Of weights and order.")] = 0,
    layer: Layer = None,
    text: Text = None,
    length: Length = 128,
    held_out: Held = 0.1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Refuse a folder that has a checkpoint.")] = False,
) -> None:
    """Train a sparse autoencoder, and measure it on activations it has not seen.

    SOURCE is an .npy, .npz or .safetensors file with activations x (n, d), and gradients g for --select gradient; a
    folder of stored activations; or the folder of a transformers model, with --layer and --text. What is written opens
    in SAELens. The same command goes on after an interruption.

    [bold]Examples[/bold]

        sparseland features train activations.npy --out runs/sae -k 16 --features 4096
        sparseland features train my-gpt --layer transformer.h.2 --text book.txt --out runs/sae
        sparseland features train my-gpt --layer transformer.h.2 --text book.txt --select gradient --out runs/gsae
    """
    from ..core.errors import RecipeError
    from ..features import SAEConfig, SparseAutoencoder
    from ..features import train as fit
    from ..features.activations import ActivationStream
    from .features_source import open_source

    loss = _loss(select, beta)
    if batch < 1 or buffer < batch or seed < 0:
        raise RecipeError(f"--batch and --seed are at least 1 and 0, --buffer a batch; got {batch}, {seed}, {buffer}")
    place = source.expanduser()
    given = open_source(place, layer=layer, text=text, length=length, held=held_out, gradient=loss, seed=seed)
    if given.rows is not None and given.rows < batch:
        raise RecipeError(f"{source} leaves {given.rows} activations to train on, fewer than --batch {batch}")
    stream = ActivationStream(given.train, batch=batch, buffer=buffer, seed=seed)
    chosen: dict[str, Any] = {"select": select, "beta": 1.0 if beta is None else beta, "grad_norm": grad_norm}
    more: dict[str, Any] = {"normalize": normalize, "aux": aux, "dead_window": dead_window, "seed": seed}
    width = features or 16 * stream.d_in
    config = SAEConfig(stream.d_in, width, activation=activation, k=k, **more, **(chosen if loss else {}))
    sae = SparseAutoencoder(config)
    result = fit(sae, stream, steps=steps, lr=lr, out=out.expanduser(), resume=False if fresh else "auto")
    _say_training(out, config, result)
    if given.test is not None:
        _say_metrics("held out", measured(sae, given, batch))


def _loss(select: str, beta: float | None) -> str | None:
    """Whose gradient a selection needs."""
    from ..core.errors import RecipeError, nearest

    losses = {"activation": None, "gradient": "next_token", "self": "self"}
    if select not in losses:
        raise RecipeError(f"--select {select}: {nearest(select, losses)}")
    if beta is not None and select == "activation":
        raise RecipeError("--beta weighs the gradient; it goes with --select gradient or self")
    return losses[select]


def _say_training(out: Path, config: Any, result: Any) -> None:
    from .screen import screen

    to = screen()
    speed = f", {result.tokens_per_second:,.0f} a second" if result.tokens_per_second else ""
    to.print(f"{config.d_sae} features of {config.d_in} activations, {config.activation}, k = {config.k}")
    to.print(f"{result.steps} steps, {result.tokens:,} tokens{speed}; last loss {result.loss:.4f}")
    to.print(f"written: {out}")


def measured(sae: Any, given: Given, batch: int) -> dict[str, Any]:
    """Metrics on what was held out: in batches, or by thresholds where codes depend on the batch."""
    from ..features.metrics import evaluate

    by_batch = sae.config.activation in ("batchtopk", "feature", "mutual_then_feature")
    mode = "threshold" if by_batch and bool((sae.threshold >= 0).any()) else "batch"
    return evaluate(sae, given.test, batch=batch, mode=mode) | {"mode": mode}


def _say_metrics(title: str, found: dict[str, Any]) -> None:
    from .screen import screen, table

    rows = [[words, f"{found[name]:.4g}"] for name, words in SHOWN.items()]
    screen().print(table(f"{title}: {found['tokens']:,} tokens, {found['mode']} mode", ["", ""], rows))


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="With cfg.json and sae_weights.safetensors.")],
    source: Annotated[
        Path | None, typer.Option("--source", help="Activations to measure on: as SOURCE of train.")
    ] = None,
    layer: Layer = None,
    text: Text = None,
    length: Length = 128,
    held_out: Held = 0.1,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with each feature's top places.")] = None,
    features: Annotated[int, typer.Option("--features", help="How many on the page.")] = 32,
    sequences: Annotated[int, typer.Option("--sequences", help="Of the text: how many are read.")] = 256,
    batch: Annotated[int, typer.Option("--batch", help="Activations at once.")] = 4096,
    out: Annotated[Path | None, typer.Option("--out", help="Write the numbers as JSON.")] = None,
) -> None:
    """Show what an autoencoder is, how good it is on activations, and what its features stand for.

    With --source it is measured on the share held out. Where the source is a model: how much of its loss survives the
    reconstructions, and with --html the places where each feature is most active.

    [bold]Examples[/bold]

        sparseland features inspect runs/sae
        sparseland features inspect runs/sae --source activations.npy
        sparseland features inspect runs/sae --source my-gpt --layer transformer.h.2 --text book.txt --html page.html
    """
    from ..core.errors import RecipeError
    from ..features import load
    from ..features.dashboard import write_dashboard
    from .features_source import open_source
    from .screen import screen, table

    if source is None and (layer or text or html):
        raise RecipeError("--layer, --text and --html go with --source")
    sae = load(folder.expanduser()).eval()
    data = sae.config.to_dict()
    rows = [[name, str(data[name])] for name in ("d_in", "d_sae", "activation", "k", "select", "beta", "normalize")]
    screen().print(table(str(folder), ["", ""], rows))
    numbers: dict[str, Any] = {"config": data}
    if source is not None:
        given = open_source(
            source.expanduser(), layer=layer, text=text, length=length, held=held_out, gradient=None, seed=0
        )
        if given.test is None:
            given.test = given.train
        if html is not None and given.model is None:
            raise RecipeError("--html shows text: it needs a model's folder as --source, with something held out")
        numbers["metrics"] = measured(sae, given, batch)
        _say_metrics(str(source), numbers["metrics"])
        if given.model is not None and given.language:
            numbers["recovered"] = _recovered(sae, given.model, sequences, str(numbers["metrics"]["mode"]))
        if html is not None and given.model is not None:
            mode = numbers["metrics"]["mode"]
            page = write_dashboard(sae, given.model, html.expanduser(), decode=given.spell, latents=features,
                             sequences=sequences, mode=mode, title=f"Features of {source.name}")  # fmt: skip
            screen().print(f"written: {page}")
    if out is not None:
        _write(out.expanduser(), numbers)


def _recovered(sae: Any, model: Any, sequences: int, mode: str) -> dict[str, Any]:
    from ..features.splice import recovered
    from .screen import screen, table

    found = recovered(sae, model, mode=mode, sequences=sequences)
    rows = [
        [name, f"{one.ce:.4f}", f"{one.delta:+.4f}", f"{one.recovered:.2%}", f"{one.kl:.4f}"]
        for name, one in found.arms.items()
    ]
    title = f"the model's loss with reconstructions, {found.tokens:,} tokens; clean {found.ce_clean:.4f} nats"
    columns = ["in place of the layer", "loss", "added", "recovered", "KL"]
    screen().print(table(title, columns, rows))
    return found.to_dict()


def _write(out: Path, numbers: dict[str, Any]) -> None:
    from ..files import write_json
    from .screen import screen

    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, numbers)
    screen().print(f"written: {out}")
