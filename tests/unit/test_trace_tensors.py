"""Safetensors files: what is written is what is read, here and by the safetensors library."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.errors import TraceError
from harness.trace.tensors import RawTensor, TensorFile, TensorWriter, bfloat16_words

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, np.dtype[Any]]

#: Each dtype by its torch name, the numpy dtype that carries it, and safetensors' name.
DTYPES = {
    "float64": ("<f8", "F64"),
    "float32": ("<f4", "F32"),
    "float16": ("<f2", "F16"),
    "bfloat16": ("<u2", "BF16"),
    "int64": ("<i8", "I64"),
    "uint64": ("<u8", "U64"),
    "int32": ("<i4", "I32"),
    "int16": ("<i2", "I16"),
    "int8": ("i1", "I8"),
    "uint32": ("<u4", "U32"),
    "uint16": ("<u2", "U16"),
    "bool": ("?", "BOOL"),
    "uint8": ("u1", "U8"),
    "float8_e4m3fn": ("u1", "F8_E4M3"),
    "float8_e5m2": ("u1", "F8_E5M2"),
}
#: Those that safetensors' own numpy reader takes.
IN_NUMPY = {name for name in DTYPES if name not in {"bfloat16", "float8_e4m3fn", "float8_e5m2"}}


@st.composite
def raw_tensors(draw: st.DrawFn) -> RawTensor:
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    carrier = np.dtype(DTYPES[dtype][0])
    # Any bits at all: NaN with a payload, infinities and subnormal numbers must come back as they were.
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    data = np.frombuffer(noise.bytes(math.prod(shape) * carrier.itemsize), dtype=carrier).reshape(shape)
    return RawTensor(dtype=dtype, shape=shape, data=data)


files = st.dictionaries(
    st.text(max_size=20).filter(lambda name: name != "__metadata__"), raw_tensors(), max_size=6
)


def write(path: Path, tensors: dict[str, RawTensor], *, header_room: int = 1 << 12) -> Path:
    with TensorWriter(path, header_room=header_room) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
    return path


def small(path: Path) -> Path:
    return write(path, {"a": RawTensor.of(np.arange(6, dtype=np.float32).reshape(2, 3))}, header_room=64)


class TestRoundTrip:
    @settings(max_examples=150, deadline=None)
    @given(tensors=files)
    def test_same_words(
        self, tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, RawTensor]
    ) -> None:
        file = TensorFile(write(tmp_path_factory.mktemp("tensors") / "a.safetensors", tensors))
        assert set(file.names) == set(tensors)
        for name, tensor in tensors.items():
            assert name in file
            assert file.shape(name) == tensor.shape
            found = file.read(name)
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert found.data.shape == tensor.shape
            assert found.data.dtype == tensor.data.dtype
            assert found.data.tobytes() == tensor.data.tobytes()

    @settings(max_examples=100, deadline=None)
    @given(tensors=files)
    def test_the_library_reads_it(
        self, tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, RawTensor]
    ) -> None:
        path = write(tmp_path_factory.mktemp("tensors") / "a.safetensors", tensors)
        library: Any = safetensors
        found = dict(library.deserialize(path.read_bytes()))
        assert set(found) == set(tensors)
        for name, tensor in tensors.items():
            assert found[name]["dtype"] == DTYPES[tensor.dtype][1]
            assert tuple(found[name]["shape"]) == tensor.shape
            assert bytes(found[name]["data"]) == tensor.data.tobytes()
        with safetensors.safe_open(path, framework="numpy") as opened:
            assert set(opened.keys()) == set(tensors)

    @settings(max_examples=50, deadline=None)
    @given(tensors=files)
    def test_the_librarys_numpy_reader(
        self, tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, RawTensor]
    ) -> None:
        known = {name: tensor for name, tensor in tensors.items() if tensor.dtype in IN_NUMPY}
        path = write(tmp_path_factory.mktemp("tensors") / "a.safetensors", known)
        found = safetensors.numpy.load_file(path)
        assert set(found) == set(known)
        for name, tensor in known.items():
            assert found[name].dtype == tensor.data.dtype
            assert found[name].shape == tensor.shape
            assert found[name].tobytes() == tensor.data.tobytes()

    def test_a_file_that_the_library_wrote(self, tmp_path: Path) -> None:
        arrays: dict[str, Array] = {
            "b": np.arange(6, dtype=np.float64).reshape(2, 3),
            "a": np.array([1, -1], dtype=np.int8),
            "empty": np.zeros((0, 3), dtype=np.float16),
            "scalar": np.array(7, dtype=np.int64),
        }
        path = tmp_path / "a.safetensors"
        safetensors.numpy.save_file(arrays, path, metadata={"format": "np"})
        file = TensorFile(path)
        assert set(file.names) == set(arrays)
        for name, array in arrays.items():
            assert file.read(name).dtype == array.dtype.name
            np.testing.assert_array_equal(file.read(name).values, array)

    def test_names_are_in_the_order_of_writing(self, tmp_path: Path) -> None:
        one = RawTensor.of(np.ones(1, dtype=np.float32))
        assert TensorFile(write(tmp_path / "a", {"z": one, "a": one, "m": one})).names == ("z", "a", "m")

    @pytest.mark.parametrize(
        "array",
        [
            np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
            np.arange(12, dtype=np.float32)[::2],
            np.arange(6, dtype=np.float32)[::-1],
            np.broadcast_to(np.float32(3), (2, 2)),
            np.array(5, dtype=np.float32),
        ],
        ids=["fortran", "strided", "reversed", "broadcast", "scalar"],
    )
    @pytest.mark.parametrize("wrapped", [True, False])
    def test_arrays_that_are_not_contiguous(self, tmp_path: Path, array: Array, wrapped: bool) -> None:
        tensor = RawTensor.of(array) if wrapped else RawTensor(dtype="float32", shape=array.shape, data=array)
        path = write(tmp_path / "a", {"a": tensor})
        np.testing.assert_array_equal(TensorFile(path).read("a").values, array)
        np.testing.assert_array_equal(safetensors.numpy.load_file(path)["a"], array)

    def test_nothing_added(self, tmp_path: Path) -> None:
        file = TensorFile(write(tmp_path / "a", {}))
        assert file.names == ()
        assert "a" not in file

    def test_tensors_are_mapped_and_read_only(self, tmp_path: Path) -> None:
        data = TensorFile(small(tmp_path / "a")).read("a").data
        assert isinstance(data, np.memmap)
        assert not data.flags.writeable


class TestWriter:
    def test_the_same_name_twice(self, tmp_path: Path) -> None:
        tensor = RawTensor.of(np.ones(2, dtype=np.float32))
        with TensorWriter(tmp_path / "a") as writer:
            writer.add("probe", tensor)
            assert "probe" in writer
            assert "other" not in writer
            with pytest.raises(ValueError, match="tensor 'probe' was recorded twice"):
                writer.add("probe", tensor)
        np.testing.assert_array_equal(TensorFile(tmp_path / "a").read("probe").values, np.ones(2))

    @pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
    def test_a_dtype_that_is_not_written(self, tmp_path: Path, dtype: type[np.generic]) -> None:
        with (
            TensorWriter(tmp_path / "a") as writer,
            pytest.raises(ValueError, match=f"dtype {np.dtype(dtype).name}, which safetensors cannot hold"),
        ):
            writer.add("a", RawTensor.of(np.zeros(2, dtype=dtype)))
        assert TensorFile(tmp_path / "a").names == ()

    def test_a_header_that_fills_its_room(self, tmp_path: Path) -> None:
        tensor = RawTensor.of(np.arange(3, dtype=np.float32))
        entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
        room = len(json.dumps({"a": entry}, separators=(",", ":")))
        assert TensorFile(write(tmp_path / "a", {"a": tensor}, header_room=room)).names == ("a",)
        with pytest.raises(ValueError, match=f"needs {room} bytes, {room - 1} were reserved"):
            write(tmp_path / "b", {"a": tensor}, header_room=room - 1)
        with pytest.raises(TraceError, match="not a readable safetensors file"):
            _ = TensorFile(tmp_path / "b").names

    def test_closing_twice(self, tmp_path: Path) -> None:
        writer = TensorWriter(tmp_path / "a")
        writer.close()
        before = (tmp_path / "a").read_bytes()
        writer.close()
        assert (tmp_path / "a").read_bytes() == before

    def test_no_file_until_it_is_closed(self, tmp_path: Path) -> None:
        with TensorWriter(tmp_path / "a") as writer:
            writer.add("a", RawTensor.of(np.ones(2, dtype=np.float32)))
            with pytest.raises(TraceError, match="not a readable safetensors file"):
                _ = TensorFile(tmp_path / "a").names


class TestDamage:
    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(TraceError, match="gone is not a readable safetensors file"):
            _ = TensorFile(tmp_path / "gone").names

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(TraceError, match="not a readable safetensors file"):
            _ = TensorFile(tmp_path).names

    def test_unknown_name(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError):
            TensorFile(small(tmp_path / "a")).read("b")

    def test_truncated_anywhere(self, tmp_path: Path) -> None:
        whole = small(tmp_path / "whole").read_bytes()
        for length in range(len(whole)):
            path = tmp_path / "cut"
            path.write_bytes(whole[:length])
            with pytest.raises(TraceError, match="not a readable safetensors file"):
                TensorFile(path).read("a")

    def test_longer_than_announced(self, tmp_path: Path) -> None:
        path = small(tmp_path / "a")
        path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(TraceError, match="not a readable safetensors file"):
            TensorFile(path).read("a")

    @pytest.mark.parametrize("bit", range(8))
    def test_a_flipped_bit_in_the_header_never_gives_other_numbers(self, tmp_path: Path, bit: int) -> None:
        whole = small(tmp_path / "whole").read_bytes()
        expected = np.arange(6, dtype=np.float32).reshape(2, 3)
        path = tmp_path / "flipped"
        for position in range(8 + 64):
            data = bytearray(whole)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            file = TensorFile(path)
            try:
                (name,) = file.names
                found = file.read(name)
            except TraceError:
                continue
            # What can change unseen is the name, or the name of a dtype for one of the same width.
            if (found.dtype, found.shape) == ("float32", (2, 3)):
                np.testing.assert_array_equal(found.values, expected)
            else:
                assert found.data.nbytes == expected.nbytes

    def test_a_dtype_that_is_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        header = json.dumps({"phases": {"dtype": "C64", "shape": [2], "data_offsets": [0, 16]}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        file = TensorFile(path)
        assert file.shape("phases") == (2,)
        assert file.dtype("phases") == "C64"
        with pytest.raises(
            TraceError, match="tensor 'phases' has dtype C64, which the harness does not read"
        ):
            file.read("phases")


def rounded_to_bfloat16(values: Array) -> Array:
    """Round float32 to bfloat16 by arithmetic: to the nearest multiple of the last of its 8 bits."""
    exact = values.astype(np.float64)
    _, exponent = np.frexp(exact)
    quantum = np.ldexp(1.0, np.maximum(exponent, -125) - 8)  # below 2**-126 the spacing stays the same
    with np.errstate(over="ignore"):
        return np.asarray((np.rint(exact / quantum) * quantum).astype(np.float32))


def words_of(values: Array) -> Array:
    return np.asarray((values.view(np.uint32) >> 16).astype(np.uint16))


class TestBfloat16:
    def test_every_pattern_comes_back(self) -> None:
        words = np.arange(1 << 16, dtype=np.uint16)
        values = RawTensor(dtype="bfloat16", shape=words.shape, data=words).values
        assert values.dtype == np.float32
        np.testing.assert_array_equal(words_of(values), words)
        finite = np.isfinite(values)
        assert np.count_nonzero(~finite) == 2 * 128
        np.testing.assert_array_equal(bfloat16_words(values[finite]), words[finite])

    def test_between_any_two_neighbours(self) -> None:
        high = np.arange(1 << 16, dtype=np.uint32) << 16
        for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
            values = (high | low).view(np.float32)
            values = values[np.isfinite(values)]
            rounded = rounded_to_bfloat16(values)
            np.testing.assert_array_equal(rounded.view(np.uint32) & 0xFFFF, 0)
            np.testing.assert_array_equal(bfloat16_words(values), words_of(rounded))

    @settings(max_examples=200, deadline=None)
    @given(
        hnp.arrays(
            np.float32,
            hnp.array_shapes(min_dims=1, max_dims=3, min_side=0),
            elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
        )
    )
    def test_nearest_and_ties_to_even(self, values: Array) -> None:
        words = bfloat16_words(values)
        assert words.dtype == np.uint16
        assert words.shape == values.shape
        np.testing.assert_array_equal(words, words_of(rounded_to_bfloat16(values)))

    @pytest.mark.parametrize(
        ("value", "word"),
        [
            (1.0, 0x3F80),
            (1.0 + 2.0**-8, 0x3F80),  # half way, the lower one is even
            (1.0 + 3 * 2.0**-8, 0x3F82),  # half way, the upper one is even
            (1.0 + 2.0**-8 + 2.0**-20, 0x3F81),
            (-0.0, 0x8000),
            (3.4e38, 0x7F80),  # nearer to infinity than to the greatest number
        ],
    )
    def test_by_hand(self, value: float, word: int) -> None:
        assert bfloat16_words(np.array([value], dtype=np.float32)).tolist() == [word]


class TestValues:
    @pytest.mark.parametrize("dtype", sorted(IN_NUMPY))
    def test_other_dtypes_are_themselves(self, dtype: str) -> None:
        array = np.array([[1, 2], [3, 100]]).astype(DTYPES[dtype][0])
        tensor = RawTensor.of(array)
        assert (tensor.dtype, tensor.shape) == (dtype, (2, 2))
        assert tensor.values.dtype == array.dtype
        np.testing.assert_array_equal(tensor.values, array)

    def test_bfloat16_is_widened(self) -> None:
        words = np.array([[0x3F80, 0xC000], [0x7F80, 0x0001]], dtype=np.uint16)
        values = RawTensor(dtype="bfloat16", shape=(2, 2), data=words).values
        np.testing.assert_array_equal(values, np.array([[1, -2], [np.inf, 2.0**-133]], dtype=np.float32))

    def test_words_take_the_tensors_shape(self) -> None:
        assert RawTensor(dtype="int8", shape=(2, 3), data=np.zeros(6, dtype=np.int8)).values.shape == (2, 3)
