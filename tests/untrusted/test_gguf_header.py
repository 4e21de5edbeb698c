"""The header of a GGUF file: what the package `gguf` writes is read, and no count in a file is believed."""

import struct

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from asyncthink_jax.untrusted import gguf as header
from asyncthink_jax.untrusted.gguf import read_header


def written(path, alignment=32):
    writer = GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    writer.add_uint32("a.u32", 2**32 - 1)
    writer.add_int64("a.i64", -(2**40))
    writer.add_float32("a.f32", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "Größe \n")
    writer.add_array("a.texts", ["one", "", "数"])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.floats", [0.25, -1.5])
    writer.add_array("a.flags", [True, False])
    writer.add_tensor("wide", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("half", np.arange(4, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("alignment", [32, 256])
def test_it_reads_what_the_package_reads(tmp_path, alignment):
    path = written(tmp_path / "m.gguf", alignment)
    ours, theirs = read_header(path), GGUFReader(path)
    assert ours.metadata == {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert [(t.name, list(t.shape), t.kind, t.start) for t in ours.tensors] == [
        (t.name, t.shape.tolist(), t.tensor_type, t.data_offset) for t in theirs.tensors
    ]


def file(*entries, n_entries=None, tensors=b"", n_tensors=0, version=3):
    n_entries = len(entries) if n_entries is None else n_entries
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_entries) + b"".join(entries) + tensors


def text(content):
    return struct.pack("<Q", len(content)) + content


def entry(name, kind, rest):
    return text(name) + struct.pack("<I", kind) + rest


def tensor(name, shape, kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HUGE = 2**40


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"GGML" + b"\0" * 100, "doesn't begin with GGUF"),
        (file(version=1), "version 1 of the format"),
        (file(version=3 << 24), "big-endian"),
        (file(n_entries=HUGE), "more than 65536"),
        (file(n_tensors=HUGE), "more than 65536"),
        (file(n_entries=60_000), "within its header"),
        (file(n_tensors=60_000), "within its header"),
        (file(struct.pack("<Q", HUGE)), "within its header"),
        (file(entry(b"a", 8, struct.pack("<Q", 2**64 - 1))), "within its header"),
        (file(entry(b"a", 9, struct.pack("<IQ", 0, HUGE))), "a is an array of 1099511627776, more than"),
        (file(entry(b"a", 9, struct.pack("<IQ", 8, HUGE))), "a is an array of 1099511627776, more than"),
        (file(entry(b"a", 9, struct.pack("<IQ", 4, 4_000_000))), "within its header"),
        (file(entry(b"a", 9, struct.pack("<IQ", 8, 4_000_000))), "within its header"),
        (file(entry(b"a", 9, struct.pack("<IQ", 9, 1) * 900)), "a is an array of values of the type 9"),
        (file(entry(b"a", 42, b"")), "a has values of the type 42"),
        (file(entry(b"a\xff", 8, text(b""))), "a key is not UTF-8"),
        (file(entry(b"a", 8, text(b"\xff"))), "a is not UTF-8"),
        (file(entry(b"a", 7, b"\1"), entry(b"a", 7, b"\1")), "a is there twice"),
        (file(entry(b"general.alignment", 4, struct.pack("<I", 0))), "general.alignment is 0, no power of two"),
        (file(entry(b"general.alignment", 4, struct.pack("<I", 33))), "general.alignment is 33, no power of two"),
        (file(tensors=tensor(b"w", (2,)) * 2, n_tensors=2), "two tensors have the same name"),
        (file(tensors=tensor(b"w", (1,) * 100), n_tensors=1), "tensor w has 100 dimensions"),
        (file(tensors=tensor(b"w", (HUGE, HUGE)), n_tensors=1), "tensor w has the shape"),
    ],
)
def test_no_count_in_a_file_is_believed(tmp_path, content, why):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"m\.gguf: no whole GGUF file: .*{why}"):
        read_header(path)


def test_arrays_are_bounded_together(tmp_path):
    path = tmp_path / "m.gguf"
    half = header.MOST_ELEMENTS // 2 + 1
    one = struct.pack("<IQ", 0, half) + b"\0" * half
    path.write_bytes(file(entry(b"a", 9, one), entry(b"b", 9, one)))
    with pytest.raises(ValueError, match=f"b is an array of {half}, more than {header.MOST_ELEMENTS} in all"):
        read_header(path)
