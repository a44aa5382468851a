"""The embedded tasks on the real language model: what probes say lies between floor and ceiling."""

from pathlib import Path

import pytest
import torch

from sae_lightning.activations import Harvester, MaskPolicy
from sae_lightning.core import Sites
from sae_lightning.lm import FrozenLM
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.evaluation import ProbeStudy
from sae_lightning.tokens import ListSource, Windows, write_tokens


@pytest.mark.lm
def test_plots_are_told_from_reviews(tmp_path: Path) -> None:
    lm = FrozenLM.load("smollm2")
    store = write_tokens(ListSource(["one text"]), lm.tokenizer, tmp_path / "t.bin", vocab_size=lm.vocab_size)
    windows = Windows(store, "all", context_length=64, separator_id=lm.separator_id)
    site = ("blocks.9.hook_resid_post",)
    harvester = Harvester(lm, Sites(site, site), windows, MaskPolicy(lm.special_ids, norm_multiple=None))
    sae = StandardSAE(lm.d_model, 2 * lm.d_model)
    eye = torch.eye(lm.d_model)
    with torch.no_grad():  # each direction of the model, as two features
        sae.W_enc.copy_(torch.cat([eye, -eye], 1))
        sae.W_dec.copy_(torch.cat([eye, -eye], 0))
    study = ProbeStudy(("rotten_tomatoes",), k=(1, 5), max_tokens=32, max_texts=240, show_progress=False)
    result = study.run(Subject(sae, lm, harvester, (0,)))
    rows = {(row[0], row[1], row[2]): row for row in result.tables["rotten_tomatoes"].rows}
    accuracy = result.tables["rotten_tomatoes"].columns.index("accuracy")
    dense, sparse, floor = (rows["plot", *kind][accuracy] for kind in (("dense", None), ("sparse", 5), ("random", 1)))
    assert dense > 0.85  # type: ignore[operator]
    assert floor < sparse <= dense + 0.05  # type: ignore[operator]
    v = result.values
    assert v["dense_probe_loss/rotten_tomatoes"] < v["random_probe_loss/rotten_tomatoes/k1"]  # type: ignore[operator]
