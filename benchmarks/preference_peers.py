"""What preference.py sets beside ours: DP-ALS, DP-popularity, EASE from an eigen-cleaned Gram, and four that are not private.

Each takes users × items (0 or 1) and gives a function histories [m, n] → scores [m, n]. The constants of peers are the best of a
grid on validation users, at no charge: that favours them. Noise is normal, from a seed, and that of the same zCDP budget as ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
Scorer = Callable[[Array], Array]
Build = Callable[..., Scorer]


@dataclass(frozen=True)
class Peer:
    name: str
    build: Build
    """build(users, noise multiplier, random, **constants)"""
    grid: Mapping[str, tuple[Any, ...]]
    private: bool

    def choices(self) -> Iterator[dict[str, Any]]:
        """All combinations of the grid."""
        chosen: list[dict[str, Any]] = [{}]
        for name, values in self.grid.items():
            chosen = [{**one, name: value} for one in chosen for value in values]
        yield from chosen


def popularity(users: Array, _: float, __: np.random.Generator) -> Scorer:
    counts = users.sum(axis=0)
    return lambda histories: np.tile(counts, (len(histories), 1))


def item_knn(users: Array, _: float, __: np.random.Generator, *, shrink: float) -> Scorer:
    """Cosine of items, shrunk (Sarwar et al. 2001; Bell and Koren 2007), the 100 nearest."""
    gram = (users.T @ users).astype(np.float64)
    length = np.sqrt(np.diag(gram))
    cosine = gram / (np.outer(length, length) + shrink)
    np.fill_diagonal(cosine, 0.0)
    if len(gram) > 100:
        cosine[cosine < np.partition(cosine, -100, axis=1)[:, -100, None]] = 0.0
    return lambda histories: histories @ cosine


def ease(users: Array, _: float, __: np.random.Generator, *, ridge: float) -> Scorer:
    return ease_of((users.T @ users).astype(np.float64), ridge)


def ease_of(gram: Array, ridge: float) -> Scorer:
    """Steck 2019, eq. 8."""
    inverse = np.linalg.inv(gram + ridge * np.eye(len(gram)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return lambda histories: histories @ weights


def ials(users: Array, _: float, random: np.random.Generator, *, dim: int, unseen: float, ridge: float) -> Scorer:
    """Hu, Koren, Volinsky 2008, with the regularisation of Rendle et al. 2022 (in proportion to frequency); exact solves."""
    items = random.normal(size=(users.shape[1], dim)) / np.sqrt(dim)
    for _ in range(6):
        people = _solved(users, items, unseen, ridge)
        items = _solved(users.T, people, unseen, ridge)
    return lambda histories: _solved(histories, items, unseen, ridge) @ items.T


def _solved(ratings: Array, fixed: Array, unseen: float, ridge: float) -> Array:
    """The other side's vectors [m, dim] for ratings [m, n] and vectors [n, dim]."""
    dim = fixed.shape[1]
    products = (fixed[:, :, None] * fixed[:, None, :]).reshape(len(fixed), -1)
    everywhere = unseen * (fixed.T @ fixed)
    out = np.empty((len(ratings), dim))
    for begin in range(0, len(ratings), 4096):
        part = ratings[begin : begin + 4096]
        left = (part @ products).reshape(-1, dim, dim) + everywhere
        left += (ridge * (part.sum(axis=1) + unseen * len(fixed)))[:, None, None] * np.eye(dim)
        out[begin : begin + 4096] = np.linalg.solve(left, (part @ fixed)[:, :, None])[:, :, 0]
    return out


# -- private ----------------------------------------------------------------------------------------------------------


def dp_popularity(users: Array, multiplier: float, random: np.random.Generator) -> Scorer:
    """Every user's row scaled to length 1, all of the budget."""
    amount = np.maximum(users.sum(axis=1, keepdims=True), 1.0)
    counts = (users / np.sqrt(amount)).sum(axis=0) + multiplier * random.normal(size=users.shape[1])
    return lambda histories: np.tile(counts, (len(histories), 1))


def dp_als(
    users: Array,
    multiplier: float,
    random: np.random.Generator,
    *,
    dim: int,
    turns: int,
    unseen: float,
    ridge: float,
    own_matrix: bool,
) -> Scorer:
    """Chien et al. 2021, "Private Alternating Least Squares": users are solved on devices, items from noisy sums.

    A user's vector is cut to length 1 and sent, weighted by w, per item of the user as (u uᵀ, u) and once as u uᵀ for what was
    not seen; w makes the whole as long as the clip norm (without `own_matrix` the first part is left out). The noise grows with
    the root of the number of turns. The ridge is in proportion to frequency, as in iALS.
    """
    n = users.shape[1]
    scale = np.sqrt(turns) * multiplier
    amount = np.maximum(users.sum(axis=1, keepdims=True), 1.0)
    weight = 1.0 / np.sqrt((2.0 if own_matrix else 1.0) * amount + 1.0)
    weighted = users * weight
    items = random.normal(size=(n, dim)) / np.sqrt(dim)
    for _ in range(turns):
        people = _solved(users, items, unseen, ridge)
        people /= np.maximum(np.linalg.norm(people, axis=1, keepdims=True), 1.0)
        products = (people[:, :, None] * people[:, None, :]).reshape(len(people), -1)
        everywhere = _symmetric((weight * products).sum(axis=0).reshape(dim, dim), scale, random)
        right = weighted.T @ people + scale * random.normal(size=(n, dim))
        left = np.tile(unseen * everywhere, (n, 1, 1))
        if own_matrix:
            own = (weighted.T @ products).reshape(n, dim, dim)
            left += np.stack([_symmetric(matrix, scale, random) for matrix in own])
        values, vectors = np.linalg.eigh(left)
        values = np.maximum(values, 0.0)
        values += ridge * np.maximum(values.sum(axis=1, keepdims=True), 0.0) + 2.0 * scale
        items = np.einsum("nij,nj,nkj,nk->ni", vectors, 1.0 / values, vectors, right, optimize=True)
        items /= max(float(np.sqrt(np.square(items).sum(axis=1).mean())), 1e-9)
    return lambda histories: _solved(histories, items, unseen, ridge) @ items.T


def _symmetric(matrix: Array, scale: float, random: np.random.Generator) -> Array:
    """Noise for a symmetric matrix whose upper triangle is sent with off-diagonals times √2 (its length is Frobenius')."""
    noise = random.normal(size=matrix.shape) * scale
    lower = np.triu(noise, 1) / np.sqrt(2.0)
    return matrix + np.diag(np.diag(noise)) + lower + lower.T


def eigen_ease(users: Array, multiplier: float, random: np.random.Generator, *, ridge: float) -> Scorer:
    """The best known before: one DP Gram matrix of normalised vectors, eigenvalues below σ√(2n) cut off, EASE solved from it."""
    amount = users.sum(axis=1)
    scaled = users / np.sqrt(np.maximum(np.sqrt(amount * (amount + 1) / 2.0), 1.0))[:, None]
    gram = (scaled.T @ scaled).astype(np.float64)
    noise = np.triu(random.normal(size=gram.shape)) * multiplier
    gram += noise + np.triu(noise, 1).T
    values, vectors = np.linalg.eigh(gram)
    kept = np.where(values > multiplier * np.sqrt(2.0 * len(gram)), values, 0.0)
    return ease_of((vectors * kept) @ vectors.T, ridge)


PEERS = (
    Peer("EASE", ease, {"ridge": (3.0, 10.0, 30.0, 100.0, 300.0)}, private=False),
    Peer("iALS", ials, {"dim": (32,), "unseen": (0.1, 0.3), "ridge": (0.003, 0.03)}, private=False),
    Peer("item-kNN", item_knn, {"shrink": (1.0, 10.0, 100.0)}, private=False),
    Peer("popularity", popularity, {}, private=False),
    Peer(
        "DP-ALS",
        dp_als,
        {
            "dim": (16,),
            "turns": (2, 4),
            "unseen": (0.1,),
            "ridge": (0.1, 0.3),
            "own_matrix": (False, True),
        },
        private=True,
    ),
    Peer("DP eigen-EASE", eigen_ease, {"ridge": (10.0, 30.0, 100.0, 300.0)}, private=True),
    Peer("DP-popularity", dp_popularity, {}, private=True),
)
