"""The largest of each row: against a stable sort, with many equal values."""

import numpy as np
import pytest
import torch

from sae_lightning.core import torch_generator
from sae_lightning.studies.ranking import largest


@pytest.mark.parametrize("levels", [1, 2, 5, 10_000])
@pytest.mark.parametrize("k", [1, 7, 40, 60])
def test_equal_values_go_by_their_column(levels: int, k: int) -> None:
    values = torch.randint(levels, (30, 40), generator=torch_generator(levels, "tests", "ranking")).float()
    values[3] = -torch.inf
    columns, found = largest(values, k)
    expected = np.argsort(-values.numpy(), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(columns.numpy(), expected)
    np.testing.assert_array_equal(found.numpy(), np.take_along_axis(values.numpy(), expected, 1))
