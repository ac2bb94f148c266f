"""Thousands of damaged files: each a SparselandError, never another model, never a crash, never a huge allocation."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sparseland import deploy
from sparseland.core.errors import SparselandError
from sparseland.deploy import checksum, container, reading

FILES = 5000


@pytest.fixture
def one_thread() -> Iterator[None]:
    """No pool of threads for each of thousands of small files."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """One tensor of every form."""
    torch.manual_seed(0)
    half = torch.randn(20, 40).masked_fill(torch.rand(20, 40) > 0.5, 0)
    far = torch.zeros(4, 3000)
    far[[0, 1, 3], [2999, 7, 1500]] = 1.0
    pairs = torch.randn(16, 64).to(torch.bfloat16)
    pairs[:, 2::4], pairs[:, 3::4] = 0, 0
    tenth = torch.randn(30, 40).masked_fill(torch.rand(30, 40) > 0.1, 0)
    return {"half": half, "far": far, "pairs": pairs, "tenth": tenth, "tied": half, "flag": torch.rand(90) > 0.5}


def mutate(whole: bytes, source: random.Random) -> bytes:
    """One way to damage bytes: a bit, bytes, a cut, a doubled or lost stretch, another number, a longer end."""
    kind, at = source.randrange(10), source.randrange(len(whole))
    span = source.choice([1, 2, 8, 40])
    if kind < 3:
        return whole[:at] + bytes([whole[at] ^ (1 << source.randrange(8))]) + whole[at + 1 :]
    if kind == 3:
        return whole[:at] + source.randbytes(span) + whole[at + span :]
    if kind == 4:
        return whole[:at]
    if kind == 5:
        return whole[:at] + whole[at : at + span] + whole[at:]
    if kind == 6:
        return whole[:at] + whole[at + span :]
    if kind == 7:
        return whole + source.randbytes(span)
    if kind == 8:
        digits = [i for i, byte in enumerate(whole) if chr(byte).isdigit()]
        at = source.choice(digits)
        return whole[:at] + source.choice([b"999999999999", b"-1", b"0", b"1e9", b"null", b"[]"]) + whole[at + 1 :]
    length = source.choice([0, 1, len(whole), 2**31, 2**40, 2**63, 2**64 - 1, source.randrange(2 * len(whole))])
    return struct.pack("<Q", length) + whole[8:]


def refused(path: Path) -> bool:
    """Whether loading says so in a SparselandError; any other exception is a failed test."""
    try:
        deploy.load(path)
    except SparselandError as error:
        return bool(str(error))
    return False


@pytest.mark.usefixtures("one_thread")
def test_five_thousand_mutated_files(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path, source = tmp_path / "m.safetensors", random.Random(0)
    deploy.save(state, path)
    assert {one.form for one in deploy.describe(path).tensors} == {"bitmask", "csr", "nm 2:4", "tied", "dense"}
    whole = path.read_bytes()
    done = 0
    while done < FILES:
        changed = mutate(whole, source)
        if changed != whole:
            path.write_bytes(changed)
            assert refused(path), f"mutation {done} was loaded"
            done += 1


@pytest.mark.usefixtures("one_thread")
def test_every_bit_of_the_header_counts(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    deploy.save({"w": torch.eye(64)}, path)
    whole = path.read_bytes()
    length = 8 + struct.unpack("<Q", whole[:8])[0]
    for at in range(length):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        assert refused(path), at


def test_mutated_files_of_version_one(tmp_path: Path) -> None:
    """Its SHA-256 does not cover the spelling of the header: what loads must be what was saved."""
    golden = Path(__file__).parent / "golden" / "version1.safetensors"
    whole, good, source = golden.read_bytes(), deploy.load(golden), random.Random(1)
    path, loaded = tmp_path / "m.safetensors", 0
    for _ in range(500):
        path.write_bytes(mutate(whole, source))
        try:
            back = deploy.load(path)
        except SparselandError:
            continue
        loaded += 1
        assert list(back) == list(good)
        assert all(torch.equal(back[name], good[name]) for name in good)
    assert loaded < 50


@pytest.fixture
def folder(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    deploy.save(state, tmp_path / "model", shard_bytes=2500)
    return tmp_path / "model"


@pytest.mark.usefixtures("one_thread")
def test_mutated_indexes_and_shards(folder: Path) -> None:
    source = random.Random(2)
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) >= 4
    for number in range(600):
        path = folder / names[number % len(names)]
        whole = path.read_bytes()
        changed = mutate(whole, source)
        if changed != whole:
            path.write_bytes(changed)
            assert refused(folder), f"{path.name}, mutation {number}"
            path.write_bytes(whole)
    assert not refused(folder)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("packed-*.safetensors"))


def swap(folder: Path) -> None:
    one, two = shards(folder)[:2]
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)


def other_save(folder: Path) -> None:
    """A shard of another save, of the same names, shapes and size."""
    place = folder.parent / "other"
    before = deploy.load(folder)
    deploy.save({name: tensor.roll(1, 0) if name == "flag" else tensor for name, tensor in before.items()}, place,
                shard_bytes=2500)  # fmt: skip
    for one in shards(folder):
        one.write_bytes((place / one.name).read_bytes())


def reindex(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the index and seal it again."""

    def apply(folder: Path) -> None:
        place = folder / "packed.safetensors.index.json"
        whole = json.loads(place.read_text())
        change(whole)
        whole["metadata"]["sha256"] = checksum.BLANK_SEAL
        place.write_bytes(checksum.seal(json.dumps(whole, indent=1).encode()))

    return apply


def first_shard(whole: dict[str, Any]) -> str:
    return next(iter(whole["metadata"]["shards"]))


CHANGES: dict[str, Callable[[Path], object]] = {
    "shards swapped": swap,
    "shards of another save": other_save,
    "a shard is missing": lambda folder: shards(folder)[1].unlink(),
    "a shard twice": lambda folder: shards(folder)[1].write_bytes(shards(folder)[0].read_bytes()),
    "a shard replaced by a plain file": lambda folder: shards(folder)[0].write_bytes(b"\2\0\0\0\0\0\0\0{}"),
    "a name in the wrong shard": reindex(
        lambda whole: whole["weight_map"].update(half=list(whole["metadata"]["shards"])[-1])
    ),
    "a name without a shard": reindex(lambda whole: whole["weight_map"].update(half="absent.safetensors")),
    "a name too many": reindex(lambda whole: whole["weight_map"].update(more=first_shard(whole))),
    "a name too few": reindex(lambda whole: whole["weight_map"].pop("flag")),
    "a shard not listed": reindex(lambda whole: whole["metadata"]["shards"].pop(first_shard(whole))),
    "a path out of the folder": reindex(
        lambda whole: whole["metadata"]["shards"].update({"../m.safetensors": {"bytes": 1, "seal": ""}})
    ),
    "sizes that are no numbers": reindex(
        lambda whole: whole["metadata"]["shards"][first_shard(whole)].update(bytes="1")
    ),
    "a later version": reindex(lambda whole: whole["metadata"].update(version="3")),
    "an index of something else": reindex(lambda whole: whole["metadata"].update(format="pt")),
    "an empty index": lambda folder: (folder / "packed.safetensors.index.json").write_bytes(b""),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_shards_that_do_not_belong_together(change: str, folder: Path) -> None:
    CHANGES[change](folder)
    assert refused(folder)


def test_a_file_that_nobody_speaks_of_changes_nothing(folder: Path, state: dict[str, torch.Tensor]) -> None:
    (folder / "packed.9-00001-of-00009.safetensors").write_bytes(b"left by a killed save")
    assert all(torch.equal(tensor, state[name]) for name, tensor in deploy.load(folder).items())


def craft(path: Path, entry: dict[str, Any], parts: dict[str, torch.Tensor]) -> None:
    """A file whose sums and seal are right, whatever it says."""
    texts, at, raw = [], 0, b""
    for key, part in parts.items():
        data = part.reshape(-1).view(torch.uint8).numpy().tobytes() if part.numel() else b""
        texts.append(container.slot_text(key, container.NAME_OF[part.dtype], part.shape, at, at + len(data)))
        raw, at = raw + data, at + len(data)
    listed = json.dumps({"w": {"sum": checksum.tensor_sum([raw]), **entry}})
    metadata = {"format": "sparseland.packed", "version": "2", "tensors": listed, "sha256": checksum.BLANK_SEAL}
    text = container.header_text(metadata, texts)
    before = container.length_of(text)
    path.write_bytes(before + checksum.seal(text, before) + raw)


def u8(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.uint8)


def values(count: int) -> torch.Tensor:
    return torch.ones(count)


def rows(pointers: list[int], columns: list[int]) -> dict[str, torch.Tensor]:
    """The parts of a CSR."""
    return {"w.rows": u8(*pointers), "w.columns": u8(*columns), "w.values": values(len(columns))}


ROWS, GAPS = {"form": "csr", "columns": "absolute"}, {"form": "csr", "columns": "gaps"}
NM = {"form": "nm", "keep": 2, "of": 4, "axis": 0}
NONE = torch.zeros(0, dtype=torch.uint32)
CONTRADICTIONS: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]] = {
    "more values than bits": ({"form": "bitmask", "shape": [8]}, {"w.bitmask": u8(3), "w.values": values(5)}),
    "a bit beyond the end": ({"form": "bitmask", "shape": [7]}, {"w.bitmask": u8(129), "w.values": values(2)}),
    "too few bits": ({"form": "bitmask", "shape": [80]}, {"w.bitmask": u8(3), "w.values": values(2)}),
    "bits of another type": ({"form": "bitmask", "shape": [1]}, {"w.bitmask": values(1), "w.values": values(1)}),
    "a huge bitmask": ({"form": "bitmask", "shape": [10**12]}, {"w.bitmask": u8(3), "w.values": values(2)}),
    "sides below zero": ({"form": "bitmask", "shape": [-2, -4]}, {"w.bitmask": u8(3), "w.values": values(2)}),
    "sides that are no integers": ({"form": "bitmask", "shape": [8.0]}, {"w.bitmask": u8(3), "w.values": values(2)}),
    "a shape that is no list": ({"form": "bitmask", "shape": 8}, {"w.bitmask": u8(3), "w.values": values(2)}),
    "column out of range": (ROWS | {"shape": [1, 5]}, rows([0, 1], [5])),
    "pointers go down": (ROWS | {"shape": [3, 9]}, rows([0, 2, 1, 2], [1, 2])),
    "pointers end early": (ROWS | {"shape": [1, 9]}, rows([0, 1], [1, 2])),
    "pointers begin late": (ROWS | {"shape": [1, 9]}, rows([1, 2], [1, 2])),
    "pointers too far": (ROWS | {"shape": [2, 9]}, rows([0, 9, 2], [1, 2])),
    "a column twice": (ROWS | {"shape": [1, 9]}, rows([0, 2], [3, 3])),
    "columns fall": (ROWS | {"shape": [1, 9]}, rows([0, 2], [3, 1])),
    "columns of another type": (ROWS | {"shape": [1, 300]}, rows([0, 1], [3])),
    "a huge matrix": (ROWS | {"shape": [1, 2**32]}, rows([0, 0], []) | {"w.columns": NONE}),
    "a shape that overflows": (GAPS | {"shape": [2**62, 2**62]}, {"w.gaps": u8(), "w.values": values(0)}),
    "gigabytes of zeros": (GAPS | {"shape": [2**30]}, {"w.gaps": u8(1), "w.values": values(1)}),
    "past the end": (GAPS | {"shape": [10]}, {"w.gaps": u8(4, 6), "w.values": values(2)}),
    "standing still": (GAPS | {"shape": [10]}, {"w.gaps": u8(4, 0), "w.values": values(2)}),
    "more distances than values": (GAPS | {"shape": [10]}, {"w.gaps": u8(4, 1), "w.values": values(1)}),
    "a code of no mask": (NM | {"shape": [8]}, {"w.codes": u8(0b111_000), "w.values": values(4)}),
    "a code too many": (NM | {"shape": [8]}, {"w.codes": u8(0b1_001_000), "w.values": values(4)}),
    "3 of 2": (NM | {"shape": [8], "keep": 3, "of": 2}, {"w.codes": u8(0), "w.values": values(4)}),
    "no group size": (NM | {"shape": [15], "of": 5}, {"w.codes": u8(0), "w.values": values(6)}),
    "groups that are no integers": (NM | {"shape": [8], "of": 4.0}, {"w.codes": u8(0), "w.values": values(4)}),
    "an axis too far": (NM | {"shape": [8], "axis": 1}, {"w.codes": u8(0), "w.values": values(4)}),
    "groups that do not fit": (NM | {"shape": [6]}, {"w.codes": u8(0), "w.values": values(3)}),
    "an unknown form": ({"form": "zip", "shape": [8]}, {"w.values": values(1)}),
    "a form that is no text": ({"form": ["csr"], "shape": [8]}, {"w.values": values(1)}),
    "a part is missing": ({"form": "bitmask", "shape": [8]}, {"w.values": values(1)}),
    "a part too many": ({"form": "dense"}, {"w": values(1), "v": values(1)}),
    "tied to nothing": ({"same as": "v"}, {"v": values(1)}),
    "tied to itself": ({"same as": "w"}, {}),
    "no form": ({}, {"w": values(1)}),
    "no sum": ({"form": "dense", "sum": 7}, {"w": values(1)}),
    "a truth beyond one": ({"form": "bitmask", "shape": [8]}, {"w.bitmask": u8(1), "w.values": u8(2).view(torch.bool)}),
    "values without a length": ({"form": "bitmask", "shape": [1]}, {"w.bitmask": u8(1), "w.values": torch.ones(())}),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_right_sums_and_impossible_content(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before a tensor is made: nothing that a file claims is allocated."""
    entry, parts = CONTRADICTIONS[case]
    craft(tmp_path / "m.safetensors", entry, parts)

    def never(*_: object) -> None:
        raise AssertionError("a tensor was made of it")

    monkeypatch.setattr(reading, "_tensor", never)
    with pytest.raises(SparselandError, match="contradicts itself"):
        deploy.load(tmp_path / "m.safetensors")


def test_crafted_files_can_be_right(tmp_path: Path) -> None:
    craft(
        tmp_path / "m.safetensors", NM | {"shape": [8]}, {"w.codes": u8(0b001_000), "w.values": torch.arange(1.0, 5.0)}
    )
    assert deploy.load(tmp_path / "m.safetensors")["w"].tolist() == [1, 2, 0, 0, 3, 0, 4, 0]
    craft(
        tmp_path / "m.safetensors",
        GAPS | {"shape": [300]},
        {"w.gaps": u8(255, 7), "w.values": torch.tensor([0.0, 9.0])},
    )
    assert deploy.load(tmp_path / "m.safetensors")["w"].nonzero().tolist() == [[262]]


BYTE = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
HEADERS = {
    "a name twice": b'{"a":' + BYTE + b',"a":' + BYTE + b"}",
    "overlapping": b'{"a":' + BYTE + b',"b":' + BYTE + b"}",
    "a hole": b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}}',
    "reversed": b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}',
    "deep": b"[" * 100_000,
    "no object": b"[1]",
    "no text": b"\xff\xfe",
    "long number": b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}',
    "metadata of numbers": b'{"__metadata__":{"format":2}}',
    "unknown type": b'{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}',
}


@pytest.mark.parametrize("case", HEADERS)
def test_impossible_headers(case: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(HEADERS[case])) + HEADERS[case] + b"\0")
    for read in (deploy.load, deploy.is_packed, deploy.describe):
        with pytest.raises(SparselandError, match="damaged, cut short or no safetensors file"):
            read(path)
