"""Attribution against exact ablation on the real language model, with a dictionary of its own activations."""

import pytest
import torch

from sae_lightning.activations import MaskPolicy
from sae_lightning.core import Sites
from sae_lightning.lm import FrozenLM
from sae_lightning.sae.init import initialise
from sae_lightning.sae.topk import TopKSAE
from sae_lightning.store import Reader
from sae_lightning.studies import Subject
from sae_lightning.studies.search.attribution import AttributionSearch
from sae_lightning.tokens import NewsSource
from tests.studies.search.ground import rows_of

SITE = "blocks.9.hook_resid_post"
PROMPTS = (
    ("The capital of France is", "Paris", "London"),
    ("The opposite of hot is", "cold", "warm"),
    ("The doctor told the patient to take her", "medicine", "car"),
)


@pytest.fixture(scope="module")
def subject() -> Subject:
    """An SAE that was never trained: each of 1,024 features points at a token of the news."""
    lm = FrozenLM.load("smollm2")
    documents = NewsSource().documents()
    ids = [lm.tokenizer(next(documents).text)["input_ids"][:100] for _ in range(20)]
    tokens = torch.tensor([one for one in ids if len(one) == 100])
    rows = lm.activations(tokens, [SITE])[SITE][:, 1:].flatten(0, 1).float()
    rows = rows[rows.norm(dim=1) < 10 * rows.norm(dim=1).median()]
    sae = TopKSAE(lm.d_model, 1024, k=32)
    initialise(sae, rows, scheme="datapoint", b_dec="mean")
    mask = MaskPolicy(lm.special_ids).fit(rows.norm(dim=1))
    return Subject(sae, lm, reader=Reader(lm, sae, Sites((SITE,), (SITE,)), mask, 128, 4))


@pytest.mark.lm
def test_signs_agree_on_the_first_twenty(subject: Subject) -> None:
    found, agreed = 0, 0
    for prompt, target, against in PROMPTS:
        study = AttributionSearch(prompt, target, against, n=20, show_progress=False)
        result = study.run(subject)
        rows = rows_of(result)
        assert len(rows) == 20
        found += len(rows)
        agreed += sum((row[1] > 0) == (row[2] > 0) for row in rows)
        estimate = result.estimates["sign_agreement"]
        assert estimate.low is not None
        assert estimate.value is not None
        assert estimate.low <= estimate.value <= estimate.high  # type: ignore[operator]
        # The model thinks that the target is likelier, and its weights are as they were.
        assert float(result.notes[0].split("=")[1].split(":")[0]) > 0
        assert subject.lm is not None
        assert subject.lm.dtype == torch.bfloat16
    assert agreed / found >= 0.8
