"""``downstream`` against plain Hugging Face with forward hooks.

What is shared: the SAE's tensors, the token windows, the mask's rule as numbers. No TransformerLens and nothing else of
ours: the splice, the mask, the means and the losses are written out again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_lightning.activations import Harvester, MaskPolicy, calibrate
from sae_lightning.core import Sites
from sae_lightning.lm import FrozenLM
from sae_lightning.lm.embedded import smollm2_folder
from sae_lightning.sae.topk import TopKSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.evaluation import DownstreamStudy
from sae_lightning.tokens import ListSource, NewsSource, Windows, write_tokens

pytestmark = pytest.mark.lm
LAYER, LENGTH, N_WINDOWS = 9, 48, 8
SITE = f"blocks.{LAYER}.hook_resid_post"
COMPARED = ("ce_clean", "ce_spliced", "delta_ce", "kl", "ce_zero", "ce_mean")


@pytest.fixture(scope="module")
def harvester(tmp_path_factory: pytest.TempPathFactory) -> Harvester:
    lm = FrozenLM.load("smollm2", dtype="float32")
    documents = NewsSource().documents()
    texts = ListSource([next(documents).text for _ in range(8)])
    out: Path = tmp_path_factory.mktemp("news") / "tokens.bin"
    store = write_tokens(texts, lm.tokenizer, out, vocab_size=lm.vocab_size)
    windows = Windows(store, "all", context_length=LENGTH, separator_id=lm.separator_id)
    one = Harvester(lm, Sites((SITE,), (SITE,)), windows, MaskPolicy(lm.special_ids), micro_batch=4)
    return one.with_mask(calibrate(one, 300, seed=0).mask)


class PlainModel:
    """Hugging Face's own forward pass, with the hidden state after one layer read or written by a hook."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32).eval()

    @contextmanager
    def hook(self, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        def replace(_module: object, _inputs: object, output: Tensor | tuple) -> Tensor | tuple:
            if isinstance(output, tuple):
                return (change(output[0]), *output[1:])
            return change(output)

        handle = self.model.model.layers[LAYER].register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def log_probs(self, tokens: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        with self.hook(change):
            return self.model(tokens, use_cache=False).logits.double().log_softmax(-1)

    def clean(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hidden state after the layer, and the log probabilities of an untouched run."""
        seen: list[Tensor] = []
        log_probs = self.log_probs(tokens, lambda h: seen.append(h) or h)
        return seen[0], log_probs


def plain_sae(sae: TopKSAE) -> Callable[[Tensor], Tensor]:
    """Return the reconstruction, from the tensors alone."""
    w_enc, b_enc, w_dec, b_dec = (t.detach().clone() for t in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec))
    k = sae.k

    def reconstruct(x: Tensor) -> Tensor:
        kept = torch.topk((x - b_dec) @ w_enc + b_enc, k, dim=-1)
        f = torch.zeros(*x.shape[:-1], len(b_enc)).scatter(-1, kept.indices, kept.values.relu())
        return f @ w_dec + b_dec

    return reconstruct


def some_sae(harvester: Harvester) -> TopKSAE:
    """Principal components of other text, each way one feature: a reconstruction neither perfect nor nonsense."""
    rows = harvester.rows(range(N_WINDOWS, N_WINDOWS + 16)).x
    _, _, components = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    directions = torch.cat([components[:128], -components[:128]])
    d, width = rows.shape[1], len(directions)
    sae = TopKSAE(d, width, k=48)
    with torch.no_grad():
        sae.W_dec.copy_(directions)
        sae.W_enc.copy_(directions.T)
        sae.b_dec.copy_(rows.mean(0))
    return sae


def by_hugging_face(
    plain: PlainModel, sae: TopKSAE, windows: Windows, mask: MaskPolicy, numbers: range
) -> dict[str, float]:
    """The definitions, window by window: what is kept is replaced, losses are over every predicted real token."""
    assert mask.norm_multiple is not None
    assert mask.median_norm is not None
    assert mask.first_position
    reconstruct = plain_sae(sae)
    batches = [windows.batch([n]) for n in numbers]
    untouched = [plain.clean(batch.tokens) for batch in batches]
    kept = []
    for batch, (h, _) in zip(batches, untouched, strict=True):
        keep = batch.token_index >= 0  # a token of the text, not a separator that the window put in
        for special in mask.special_ids:
            keep &= batch.tokens != special
        keep[:, 0] = False
        kept.append(keep & (h.norm(dim=-1) <= mask.norm_multiple * mask.median_norm))
    mean = torch.cat([h[keep] for (h, _), keep in zip(untouched, kept, strict=True)]).double().mean(0).float()

    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "spliced": reconstruct,
        "zero": torch.zeros_like,
        "mean": lambda h: mean.expand_as(h),
    }
    ce, divergence, n = dict.fromkeys(("clean", *runs), 0.0), 0.0, 0
    for batch, keep, (_, clean) in zip(batches, kept, untouched, strict=True):
        real = batch.mask[0, :-1] & batch.mask[0, 1:]
        targets = batch.tokens[0, 1:, None]
        n += int(real.sum())
        found = {"clean": clean[0, :-1]}
        for run, write in runs.items():

            def change(h: Tensor, keep: Tensor = keep, write: Callable[[Tensor], Tensor] = write) -> Tensor:
                return torch.where(keep[..., None], write(h), h)

            found[run] = plain.log_probs(batch.tokens, change)[0, :-1]
        for run, lp in found.items():
            ce[run] -= float(lp.gather(1, targets)[real].sum())
        p, q = found["clean"], found["spliced"]
        divergence += float((p.exp() * (p - q)).sum(-1)[real].sum())
    means = {f"ce_{run}": value / n for run, value in ce.items()}
    return {**means, "delta_ce": means["ce_spliced"] - means["ce_clean"], "kl": divergence / n}


def test_downstream_agrees_with_plain_hugging_face(harvester: Harvester) -> None:
    sae = some_sae(harvester)
    numbers = range(N_WINDOWS)
    study = DownstreamStudy(show_progress=False)
    ours = study.run(Subject(sae, harvester.lm, harvester, numbers)).values
    assert harvester.mask is not None
    windows = harvester.windows
    assert isinstance(windows, Windows)
    theirs = by_hugging_face(PlainModel(), sae, windows, harvester.mask, numbers)
    for name in COMPARED:
        assert ours[name] == pytest.approx(theirs[name], rel=0, abs=1e-4), name
    # The numbers are those of a working model with an SAE that does something.
    assert 2.5 < theirs["ce_clean"] < 5
    assert 0.05 < theirs["delta_ce"] < theirs["ce_mean"] - theirs["ce_clean"]
