"""Merkle roots and inclusion proofs, against the known values of RFC 6962 and against forgery."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.merkle import inclusion_proof, leaf_hash, merkle_root, verify_inclusion

# Test leaves and roots of the reference implementation (Certificate Transparency, merkle tree tests).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
trees = st.lists(st.binary(max_size=40), min_size=1, max_size=40)


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_reference_implementation(size: int) -> None:
    assert merkle_root(LEAVES[:size]).hex() == ROOTS[size - 1]


def test_the_root_of_nothing_is_the_hash_of_nothing() -> None:
    assert merkle_root([]) == hashlib.sha256(b"").digest()


@settings(max_examples=60, deadline=None)
@given(trees)
def test_every_leaf_has_a_proof(leaves: list[bytes]) -> None:
    root = merkle_root(leaves)
    for index, leaf in enumerate(leaves):
        assert verify_inclusion(leaf, index, len(leaves), inclusion_proof(leaves, index), root)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=2, max_size=30, unique=True), st.data())
def test_a_changed_proof_proves_nothing(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, path = merkle_root(leaves), inclusion_proof(leaves, index)
    size = len(leaves)
    assert not verify_inclusion(leaves[index] + b"x", index, size, path, root)
    assert not verify_inclusion(leaves[index], index, size, path[:-1], root)
    assert not verify_inclusion(leaves[index], index, size, [*path, path[-1]], root)
    assert not verify_inclusion(leaves[index], index, size, path, bytes(32))
    for other in range(size):
        if other != index:
            assert not verify_inclusion(leaves[index], other, size, path, root)
    for place in range(len(path)):
        bent = [*path]
        bent[place] = bytes([bent[place][0] ^ 1]) + bent[place][1:]
        assert not verify_inclusion(leaves[index], index, size, bent, root)


@pytest.mark.parametrize("index", [-1, 8, 100])
def test_no_proof_outside_the_tree(index: int) -> None:
    assert not verify_inclusion(LEAVES[0], index, 8, [], merkle_root(LEAVES))
    with pytest.raises(IndexError):
        inclusion_proof(LEAVES, index)


def test_an_inner_node_cannot_pass_for_a_leaf() -> None:
    """RFC 6962 §2.1: leaves and nodes are hashed under different prefixes."""
    left, right = leaf_hash(LEAVES[0]), leaf_hash(LEAVES[1])
    assert leaf_hash(left + right) != merkle_root(LEAVES[:2])
    assert not verify_inclusion(left + right, 0, 1, [], merkle_root(LEAVES[:2]))
