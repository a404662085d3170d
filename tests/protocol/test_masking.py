from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.protocol.masking import apply_mask

from .strategies import deterministic, masking_keys, xor


def test_example_of_the_rfc() -> None:
    # RFC 6455, section 5.7: "Hello" from a client.
    assert apply_mask(b"Hello", bytes.fromhex("37fa213d")) == bytes.fromhex("7f9f4d5158")


@deterministic
@given(st.binary(max_size=100), masking_keys, st.integers(min_value=0, max_value=9))
def test_each_octet_with_its_octet_of_the_key(data: bytes, key: bytes, offset: int) -> None:
    assert apply_mask(data, key, offset) == xor(bytes(offset) + data, key)[offset:]


@deterministic
@given(st.binary(max_size=100), masking_keys, st.integers(min_value=0, max_value=2**64))
def test_is_its_own_inverse(data: bytes, key: bytes, offset: int) -> None:
    assert apply_mask(apply_mask(data, key, offset), key, offset) == data


@deterministic
@given(st.binary(max_size=100), masking_keys, st.integers(min_value=0, max_value=100))
def test_in_two_pieces(data: bytes, key: bytes, at: int) -> None:
    whole = apply_mask(data, key)
    assert apply_mask(data[:at], key) + apply_mask(data[at:], key, len(data[:at])) == whole


@pytest.mark.parametrize("size", [*range(20), 125, 126, 4095, 4096, 4097, 65535, 65536, 1_000_003])
def test_sizes(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    masked = apply_mask(data, b"\x80\x00\xff\x01")
    assert type(masked) is bytes
    assert masked == xor(data, b"\x80\x00\xff\x01")


def test_zero_key_changes_nothing() -> None:
    assert apply_mask(b"\x00\x00\xff\x00", bytes(4)) == b"\x00\x00\xff\x00"
