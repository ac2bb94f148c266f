"""A program of the engine: tensors, ops and weights, and the bytes that hold them.

The bytes are the whole of a ``.sland`` file: a header of 64 bytes (magic, version, sizes, CRC-32 of everything else),
the program as little-endian 32-bit words, the blobs (64-byte aligned), and a JSON text that only Python reads. The
engine (``cpp/engine/program.cc``) reads the same bytes from memory, a mapped file or a browser's buffer, and checks
every number of them. Nothing of it is code.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseland.core.errors import SparselandError, nearest

MAGIC, VERSION, HEADER, ALIGN, OVERREAD = b"SLENGINE", 1, 64, 64, 256
LAYOUTS = ("plain", "tiles", "ids")
LANES = 16
ARENA, CONSTANT, INPUT, OUTPUT = range(4)
ACTS = ("none", "clamp", "hardswish", "hardsigmoid", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh")
FUSED, MOST_FUSED = {"conv", "first_conv", "dwconv", "spmm", "gemm"}, 6  # as in cpp/kernels/fused.inc
FUSED_BYTES, FUSED_BYTES_BEFORE_WINDOW = 1 << 18, 1 << 19  # of an image, at least, of what lies between two of them
Shape4 = tuple[int, int, int, int]


@dataclass(frozen=True)
class Place:
    """How a tensor lies: (N, C, H, W), its layout, and for tiles the rows R of a band and its lanes T."""

    shape: Shape4
    layout: str
    rows: int
    lanes: int

    @property
    def bytes(self) -> int:
        """That it takes in memory."""
        n, c, h, w = self.shape
        if self.layout == "tiles":
            return 4 * n * -(-h // self.rows) * c * self.lanes
        return n * c * h * w * (8 if self.layout == "ids" else 4)


@dataclass
class Op:
    """One step: its kind, tensors read and written (-1: absent), and what the kind asks for."""

    kind: str
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    ints: tuple[int, ...]
    floats: tuple[float, ...]
    blobs: tuple[int, ...]


@dataclass
class Program:
    """Collects tensors and ops in the order they run; `to_bytes` gives the file.

    >>> import numpy as np
    >>> from sparseland.deploy.program import Program
    >>> p = Program()
    >>> x = p.input((1, 3, 4, 4), "plain")
    >>> y = p.tensor((1, 3, 4, 4), "plain")
    >>> p.op("unary", [x], [y], ints=[1], floats=[0.0, np.inf, 1.0, 0.0])
    >>> p.output(y)
    >>> data = p.to_bytes({"name": "relu"})
    >>> data[:8], read_meta(data)
    (b'SLENGINE', {'name': 'relu'})
    """

    places: list[Place] = field(default_factory=list)
    storage: list[tuple[int, int]] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    blobs: list[NDArray[Any]] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def tensor(self, shape: Sequence[int], layout: str = "tiles", *, rows: int | None = None) -> int:
        """A tensor of the arena; ``rows`` (tiles): image rows of a band, default all of them.

        Raises:
            SparselandError: not four sizes of at least 1, an unknown layout, more rows than the image has.
        """
        sizes = tuple(int(s) for s in shape)
        if len(sizes) != 4 or min(sizes) < 1:
            raise SparselandError(f"a tensor has four sizes of at least 1 (N, C, H, W); got {tuple(shape)}")
        if layout not in LAYOUTS:
            raise SparselandError(f"unknown layout {layout!r}: {nearest(layout, LAYOUTS)}")
        band = sizes[2] if rows is None else int(rows)
        if not 1 <= band <= sizes[2]:
            raise SparselandError(f"rows={rows}: an image of {sizes[2]} rows has bands of 1 to {sizes[2]}")
        lanes = -(-band * sizes[3] // LANES) * LANES
        n, c, h, w = sizes
        self.places.append(Place((n, c, h, w), layout, band, lanes))
        self.storage.append((ARENA, 0))
        return len(self.places) - 1

    def input(self, shape: Sequence[int], layout: str = "plain") -> int:
        """The next input: "plain" float32 or "ids" int64."""
        number = self.tensor(shape, layout)
        if layout == "tiles":
            raise SparselandError("an input is plain or ids; pack it into tiles with the op 'pack'")
        self.storage[number] = (INPUT, len(self.inputs))
        self.inputs.append(number)
        return number

    def output(self, tensor: int) -> None:
        """Make a plain or ids tensor the next output."""
        if self.places[tensor].layout == "tiles":
            raise SparselandError("an output is plain or ids; unpack it with the op 'unpack'")
        if self.storage[tensor][0] != ARENA:
            raise SparselandError("an input, a constant or an output cannot be made an output")
        self.storage[tensor] = (OUTPUT, len(self.outputs))
        self.outputs.append(tensor)

    def constant(self, array: NDArray[Any], layout: str = "plain", *, rows: int | None = None) -> int:
        """A tensor (N, C, H, W) that is part of the file."""
        values = np.ascontiguousarray(array, dtype=np.int64 if layout == "ids" else np.float32)
        number = self.tensor(values.shape, layout, rows=rows)
        place = self.places[number]
        if layout == "tiles":
            values = tiled(values, place.rows, place.lanes)
        self.storage[number] = (CONSTANT, self._blob(values))
        return number

    def op(
        self,
        kind: str,
        ins: Sequence[int],
        outs: Sequence[int],
        ints: Sequence[int] = (),
        floats: Sequence[float] = (),
        blobs: Sequence[NDArray[Any]] = (),
    ) -> None:
        """Add a step; each blob is an array of weights, written as it is."""
        numbers = tuple(self._blob(np.ascontiguousarray(b)) for b in blobs)
        self.ops.append(
            Op(kind, tuple(ins), tuple(outs), tuple(int(i) for i in ints), tuple(float(f) for f in floats), numbers)
        )

    def _blob(self, array: NDArray[Any]) -> int:
        self.blobs.append(array)
        return len(self.blobs) - 1

    def arena(self) -> tuple[list[int], int]:
        """Byte offsets of the arena's tensors, memory shared by those that never live together, and its size.

        First fit over the tensors from the largest down, each placed below everything that lives when it does.
        """
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for step, op in enumerate(self.ops):
            for tensor in (*op.outs, *(i for i in op.ins if i >= 0)):
                first.setdefault(tensor, step)
                last[tensor] = step
            for earlier in self._joined(step):  # done as one with this op, perhaps
                last.update((tensor, step) for tensor in self.ops[earlier].ins if tensor >= 0)
        offsets = [0] * len(self.places)
        placed: list[tuple[int, int, int]] = []  # begin, end, tensor
        ours = [t for t in first if self.storage[t][0] == ARENA]
        for tensor in sorted(ours, key=lambda t: -self.places[t].bytes):
            size = _round(self.places[tensor].bytes + OVERREAD, ALIGN)
            at = 0
            for begin, end, other in sorted(placed):
                if first[other] > last[tensor] or last[other] < first[tensor]:
                    continue
                if at + size <= begin:
                    break
                at = max(at, end)
            offsets[tensor] = at
            placed.append((at, at + size, tensor))
        return offsets, max((end for _, end, _ in placed), default=ALIGN) + OVERREAD

    def _joined(self, step: int) -> Iterator[int]:
        """The ops before one that the engine may do together with it, some rows of each at a time."""
        for earlier in range(step - 1, max(-1, step - MOST_FUSED), -1):
            between, after = self.ops[earlier].outs[0], self.ops[earlier + 1]
            least = FUSED_BYTES_BEFORE_WINDOW if after.kind == "dwconv" else FUSED_BYTES
            small = self.places[between].bytes < least * self.places[between].shape[0]
            if small or between != after.ins[0] or {self.ops[earlier].kind, after.kind} - FUSED:
                return
            yield earlier

    def to_bytes(self, meta: dict[str, Any] | None = None) -> bytes:
        """The file: what the engine reads, and ``meta`` as JSON for whoever inspects it."""
        offsets, arena = self.arena()
        unused = [t for t, (kind, _) in enumerate(self.storage) if kind == ARENA and not self._used(t)]
        text = json.dumps(meta or {}, separators=(",", ":"), allow_nan=False).encode()
        words = 4 * len(self._words(offsets, arena, [(0, 0)] * len(self.blobs), unused))
        at = _round(HEADER + words + len(text), ALIGN)
        spans: list[tuple[int, int]] = []
        for blob in self.blobs:
            spans.append((at, blob.nbytes))
            at = _round(at + blob.nbytes, ALIGN)
        total = at + OVERREAD
        data = bytearray(total)
        data[HEADER : HEADER + words] = self._words(offsets, arena, spans, unused).tobytes()
        data[HEADER + words : HEADER + words + len(text)] = text
        for (begin, size), blob in zip(spans, self.blobs, strict=True):
            data[begin : begin + size] = blob.tobytes()
        struct.pack_into("<8sIIQQQQQ", data, 0, MAGIC, VERSION, 0, total, HEADER, words, HEADER + words, len(text))
        struct.pack_into("<Q", data, 56, zlib.crc32(memoryview(data)[HEADER:], zlib.crc32(memoryview(data)[:56])))
        return bytes(data)

    def _used(self, tensor: int) -> bool:
        return any(tensor in op.ins or tensor in op.outs for op in self.ops)

    def _words(
        self, offsets: list[int], arena: int, spans: list[tuple[int, int]], unused: list[int]
    ) -> NDArray[np.int32]:
        words: list[int] = [*_pair(arena), len(spans)]
        for span in spans:
            words += [*_pair(span[0]), *_pair(span[1])]
        words.append(len(self.places))
        for number, (place, (kind, at)) in enumerate(zip(self.places, self.storage, strict=True)):
            if number in unused:  # takes no memory
                place = Place((1, 1, 1, 1), "plain", 1, LANES)
            where = offsets[number] if kind == ARENA else at
            words += [LAYOUTS.index(place.layout), *place.shape, place.rows, place.lanes, kind, *_pair(where)]
        words += [len(self.inputs), *self.inputs, len(self.outputs), *self.outputs, len(self.ops)]
        for op in self.ops:
            name = op.kind.encode()
            words += [len(name), *np.frombuffer(name + b"\0" * (-len(name) % 4), "<i4").tolist()]
            words += [len(op.ins), *op.ins, len(op.outs), *op.outs, len(op.ints), *op.ints, len(op.floats)]
            words += np.array(op.floats, "<f4").view("<i4").tolist()
            words += [len(op.blobs), *op.blobs]
        return np.array(words, "<i8").astype("<u4").view("<i4")


def tiled(values: NDArray[Any], rows: int, lanes: int) -> NDArray[np.float32]:
    """(N, C, H, W) as channel-major tiles [N][bands][C][lanes], zeros where no pixel is.

    >>> import numpy as np
    >>> tiled(np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1), 2, 16)[0, :, 0, :3].tolist()
    [[0.0, 1.0, 0.0], [2.0, 3.0, 0.0]]
    """
    n, c, h, w = values.shape
    bands = -(-h // rows)
    padded = np.zeros((n, c, bands * rows, w), np.float32)
    padded[:, :, :h] = values
    tiles = np.zeros((n, bands, c, lanes), np.float32)
    tiles[..., : rows * w] = padded.reshape(n, c, bands, rows * w).transpose(0, 2, 1, 3)
    return tiles


def read_meta(data: Any) -> dict[str, Any]:
    """The JSON text of a file's bytes.

    Raises:
        SparselandError: the bytes are no engine file, or one of another version.
    """
    view = memoryview(data)
    if len(view) < HEADER or bytes(view[:8]) != MAGIC:
        raise SparselandError("not a sparseland engine file: it does not begin with SLENGINE")
    (version,) = struct.unpack_from("<I", view, 8)
    if version != VERSION:
        raise SparselandError(f"an engine file of version {version}; this library reads version {VERSION}")
    at, size = struct.unpack_from("<QQ", view, 40)
    try:
        meta = json.loads(bytes(view[at : at + size]))
    except (ValueError, RecursionError) as error:
        raise SparselandError(f"not a sparseland engine file: its description is damaged ({error})") from error
    if not isinstance(meta, dict):
        raise SparselandError("not a sparseland engine file: its description is no table")
    return meta


def _round(n: int, to: int) -> int:
    return -(-n // to) * to


def _pair(value: int) -> tuple[int, int]:
    return value & 0xFFFFFFFF, value >> 32
