"""Features: the sparse form, the dense form and a naive reading of both say the same."""

import numpy as np
import pytest
import torch

from sae_lightning.core import ActivationBatch, Features

N, F = 7, 11


def example(seed: int = 0) -> tuple[Features, Features, list[dict[int, float]]]:
    """Return the same features as CSR, as dense, and as one plain dict a row; some stored values are 0."""
    rng = np.random.default_rng(seed)
    rows: list[dict[int, float]] = []
    for r in range(N):
        chosen = rng.choice(F, size=0 if r == 2 else int(rng.integers(1, 6)), replace=False)
        rows.append({int(i): float(rng.choice([0.0, rng.normal()], p=[0.3, 0.7])) for i in chosen})
    indices = torch.tensor([i for row in rows for i in row])
    values = torch.tensor([v for row in rows for v in row.values()])
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in rows])])
    dense = torch.zeros(N, F)
    for r, row in enumerate(rows):
        for i, value in row.items():
            dense[r, i] = value
    return Features(values, indices, offsets, F), Features(dense, None, None, F), rows


@pytest.fixture(params=range(5))
def forms(request) -> tuple[Features, Features, list[dict[int, float]]]:
    return example(request.param)


def test_shape_and_form(forms) -> None:
    sparse, dense, rows = forms
    assert sparse.is_sparse
    assert not dense.is_sparse
    assert sparse.n_rows == dense.n_rows == N
    assert sparse.rows.tolist() == [r for r, row in enumerate(rows) for _ in row]


def test_dense_puts_every_value_in_its_place(forms) -> None:
    sparse, dense, _ = forms
    assert torch.equal(sparse.dense(), dense.values)
    assert dense.dense() is dense.values


@pytest.mark.parametrize("form", [0, 1], ids=["sparse", "dense"])
def test_counts_norms_and_triples_are_those_of_a_naive_reading(forms, form: int) -> None:
    features, rows = forms[form], forms[2]
    active = [{i: v for i, v in row.items() if v != 0} for row in rows]
    counts = [sum(i in row for row in active) for i in range(F)]
    assert features.counts().tolist() == counts
    assert features.fired().tolist() == [c > 0 for c in counts]
    assert features.l0().tolist() == [len(row) for row in active]
    expected = torch.tensor([sum(abs(v) for v in row.values()) for row in rows], dtype=torch.float32)
    torch.testing.assert_close(features.l1(), expected)
    triples = {(int(r), int(i), float(v)) for r, i, v in zip(*features.triples(), strict=True)}
    assert triples == {(r, i, float(np.float32(v))) for r, row in enumerate(active) for i, v in row.items()}
    assert features.triples()[0].tolist() == sorted(features.triples()[0].tolist())


def test_a_selected_zero_did_not_fire() -> None:
    features = Features(torch.tensor([0.0, 2.0]), torch.tensor([3, 1]), torch.tensor([0, 2]), 4)
    assert features.fired().tolist() == [False, True, False, False]
    assert features.l0().tolist() == [1]
    assert len(features.triples()[0]) == 1


def test_a_negative_activation_fires() -> None:
    features = Features(torch.tensor([-0.5]), torch.tensor([0]), torch.tensor([0, 1]), 2)
    assert features.counts().tolist() == [1, 0]
    assert features.l1().tolist() == [0.5]


def test_gradients_of_dense_go_to_the_stored_values() -> None:
    sparse, _, rows = example()
    values = sparse.values.clone().double().requires_grad_()
    features = Features(values, sparse.indices, sparse.offsets, F)
    weights = torch.randn(N, F, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (features.dense() * weights).sum().backward()
    expected = [float(weights[r, i]) for r, row in enumerate(rows) for i in row]
    assert values.grad is not None
    assert values.grad.tolist() == expected


def test_rows_of_nothing_at_all() -> None:
    none = Features(torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), 5)
    assert none.n_rows == 3
    assert none.dense().tolist() == [[0.0] * 5] * 3
    assert none.l0().tolist() == [0, 0, 0]
    assert not none.fired().any()


def test_an_activation_batch_has_the_length_of_its_rows() -> None:
    x = torch.zeros(6, 2)
    assert len(ActivationBatch(x=x, y=x, token_index=torch.arange(6))) == 6
