"""Units read on token ids alone: as the reader reads a text, whatever is read beside it."""

import numpy as np
import pytest
import torch

from sae_lightning.store import Reader
from sae_lightning.studies.autointerp.explainers.unit_reads import unit_reads
from sae_lightning.studies.autointerp.records import Unit
from tests.studies.analysis.tiny_subject import tiny_subject


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    tiny = tiny_subject(tmp_path_factory.mktemp("reads"))
    assert tiny.lm is not None
    assert tiny.harvester is not None
    return Reader(tiny.lm, tiny.sae, tiny.harvester.sites, tiny.harvester.mask, 32, 2)


def some_texts(n: int = 20) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 257, int(rng.integers(1, 32))) for _ in range(n)]


def test_a_feature_is_what_the_reader_reads_text_by_text(reader: Reader) -> None:
    texts = some_texts()
    seen = 0
    for feature in range(0, 48, 5):
        for ids, values in zip(texts, unit_reads(reader, Unit("feature", feature))(texts), strict=True):
            kept, features = reader.rows(ids)
            alone = np.zeros(len(ids), np.float32)
            alone[kept] = features.dense()[:, feature].detach().numpy()
            np.testing.assert_allclose(values, alone, atol=1e-4)
            seen += int((values > 0).sum())
    assert seen > 20


def test_a_neuron_is_its_activation_above_0_where_the_mask_leaves_the_token_in(reader: Reader) -> None:
    texts = some_texts(8)
    read = unit_reads(reader, Unit("neuron", 17, 1))(texts)
    for ids, values in zip(texts, read, strict=True):
        batch = reader.windows(ids, len(ids))
        found = reader.lm.activations(batch.tokens, ["blocks.1.mlp.hook_post"])["blocks.1.mlp.hook_post"]
        expected = found[0, -len(ids) :, 17].clamp(min=0) * torch.from_numpy(ids != 256)
        np.testing.assert_allclose(values, expected.numpy(), atol=1e-5)
    assert any((values > 0).any() for values in read)


def test_nothing_read_is_nothing(reader: Reader) -> None:
    assert unit_reads(reader, Unit("feature", 0))([]) == []


def test_of_a_text_longer_than_a_window_the_end_is_read(reader: Reader) -> None:
    long = np.random.default_rng(3).integers(0, 256, 100)
    seen = 0
    for feature in range(0, 48, 5):
        whole, end, short = unit_reads(reader, Unit("feature", feature))([long, long[-31:], long[:5]])
        assert [len(whole), len(end), len(short)] == [100, 31, 5]
        np.testing.assert_allclose(whole[-31:], end, atol=1e-5)
        assert not whole[:-31].any()
        seen += int((end > 0).sum())
    assert seen
