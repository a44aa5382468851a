"""Held-out studies on the tiny language model, against the same numbers computed the long way."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_lightning.activations import Harvester, MaskPolicy
from sae_lightning.core import ActivationBatch, Estimate, Sites, UserError, torch_generator
from sae_lightning.lm import FrozenLM
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.sae.topk import TopKSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.evaluation import (
    HELDOUT_KEYS,
    DownstreamStudy,
    ReconstructionStudy,
    SparsityStudy,
    heldout_metrics,
)
from sae_lightning.tokens import TokenStore, Windows

D, LENGTH, SITE = 32, 24, "blocks.1.hook_resid_post"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The matrices here are tiny, and waiting for a second thread costs more than it does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return FrozenLM.load("tiny", dtype="float32", seed=3)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    """Documents of many lengths, one per window, so most windows end in padding."""
    path: Path = tmp_path_factory.mktemp("tokens") / "ids.bin"
    rng = np.random.default_rng(0)
    ids = [np.append(rng.integers(0, 256, rng.integers(3, 60)), 65535) for _ in range(30)]
    path.write_bytes(np.concatenate(ids).astype("<u2").tobytes())
    store = TokenStore.open(path, "uint16", 65535)
    return Windows(store, "all", context_length=LENGTH, packing="document", separator_id=256)


def harvester(
    lm: FrozenLM, windows: Windows, read: tuple[str, ...] = (SITE,), write: tuple[str, ...] = ()
) -> Harvester:
    mask = MaskPolicy(special_ids=(7, 8, 9, 256), first_position=True, norm_multiple=None)
    return Harvester(lm, Sites(read, write or read), windows, mask, micro_batch=4)


def identity_sae(d: int = D) -> SparseAutoencoder:
    """x = ReLU(x) - ReLU(-x), exactly."""
    sae = StandardSAE(d, 2 * d)
    eye = torch.eye(d)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([eye, -eye], 1))
        sae.W_dec.copy_(torch.cat([eye, -eye], 0))
    return sae


def some_sae(d_in: int = D, d_out: int | None = None, d_sae: int = 64) -> SparseAutoencoder:
    sae = TopKSAE(d_in, d_sae, d_out, k=4)
    g = torch_generator(5, "tests", "studies")
    for p in sae.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.2
    return sae


def plain(figures: dict[str, Estimate]) -> dict[str, float | None]:
    return {name: figure.value for name, figure in figures.items()}


def by_hand(lm: FrozenLM, h: Harvester, sae: SparseAutoencoder, numbers: list[int]) -> dict[str, float]:
    """One window at a time, float64, from logits of whole runs with an edit function at each site."""
    rows = torch.cat([h.rows([n]).y for n in numbers]).double()
    mean = rows.mean(0)
    sums: dict[str, float] = {}
    count = 0

    def log_probs(tokens: Tensor, keep: Tensor, written: Tensor | None) -> Tensor:
        edits = {}
        if written is not None:
            for site, part in zip(h.sites.write, written.split(h.widths_out, dim=-1), strict=True):

                def edit(clean: Tensor, part: Tensor = part) -> Tensor:
                    new = clean.clone()
                    new[keep] = part.to(clean)
                    return new

                edits[site] = edit
        return lm.logits(tokens, edits).double().log_softmax(-1)

    for n in numbers:
        batch, x, keep = h.full([n])
        with torch.no_grad():
            y_hat = sae(x[keep]).y_hat
        n_kept = len(y_hat)
        clean = log_probs(batch.tokens, keep, None)
        at = batch.mask[0, 1:].nonzero()[:, 0]  # positions whose target is real
        targets = batch.tokens[0, at + 1]
        count += len(at)
        runs = {"spliced": y_hat, "zero": torch.zeros_like(y_hat), "mean": mean.float().expand(n_kept, -1)}
        for run, written in [("clean", None), *runs.items()]:
            lp = clean if written is None else log_probs(batch.tokens, keep, written)
            ce = -lp[0, at, targets].sum()
            kl = (clean[0, at].exp() * (clean[0, at] - lp[0, at])).sum()
            sums[f"ce_{run}"] = sums.get(f"ce_{run}", 0.0) + float(ce)
            sums[f"kl_{run}"] = sums.get(f"kl_{run}", 0.0) + float(kl)
    out = {name: value / count for name, value in sums.items()}
    out["tokens"] = count
    return out


SITES = {
    "sae": ((SITE,), ()),
    "mlp": (("blocks.1.hook_mlp_out",), ()),
    "last layer": (("blocks.2.hook_resid_post",), ()),
    "transcoder": (("blocks.1.hook_resid_post",), ("blocks.2.hook_mlp_out",)),
}


@pytest.mark.parametrize("name", SITES)
def test_downstream_equals_the_long_way(lm: FrozenLM, windows: Windows, name: str) -> None:
    h = harvester(lm, windows, *SITES[name])
    sae = some_sae(h.d_in, None if h.same_sites else h.d_out)
    numbers = list(range(10))
    result = DownstreamStudy(show_progress=False).run(Subject(sae, lm, h, numbers))
    expected = by_hand(lm, h, sae, numbers)
    v = {key: value for key, value in result.values.items() if value is not None}
    assert result.tokens == expected["tokens"]
    for run in ("clean", "spliced", "zero", "mean"):
        assert v[f"ce_{run}"] == pytest.approx(expected[f"ce_{run}"], rel=1e-5)
    assert v["kl"] == pytest.approx(expected["kl_spliced"], rel=1e-3, abs=1e-6)
    assert v["delta_ce"] == pytest.approx(v["ce_spliced"] - v["ce_clean"])
    for run in ("zero", "mean"):
        whole = v[f"ce_{run}"] - v["ce_clean"]
        assert v[f"ce_recovered_{run}"] == pytest.approx((v[f"ce_{run}"] - v["ce_spliced"]) / whole)
        recovered = 1 - expected["kl_spliced"] / expected[f"kl_{run}"]
        assert v[f"kl_recovered_{run}"] == pytest.approx(recovered, rel=1e-3)
    assert v["ce_zero"] != v["ce_mean"] != v["ce_clean"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_identity_costs_nothing_exactly(windows: Windows, dtype: str) -> None:
    lm = FrozenLM.load("tiny", dtype=dtype, seed=3)  # type: ignore[arg-type]
    h = harvester(lm, windows)
    values = plain(heldout_metrics(Subject(identity_sae(), lm, h, range(9)), show_progress=False))
    assert values["delta_ce"] == 0.0
    assert values["kl"] == 0.0
    assert values["ce_recovered_zero"] == values["ce_recovered_mean"] == 1.0
    assert values["fvu"] == 0.0
    assert values["explained_variance"] == 1.0


def test_two_sites_are_both_written(lm: FrozenLM, windows: Windows) -> None:
    sites = ("blocks.0.hook_resid_post", "blocks.2.hook_mlp_out")
    h = harvester(lm, windows, sites)
    numbers = list(range(8))
    run = DownstreamStudy(show_progress=False).run
    assert run(Subject(identity_sae(2 * D), lm, h, numbers)).values["delta_ce"] == 0.0
    only_first = run(Subject(identity_sae(), lm, harvester(lm, windows, sites[:1]), numbers)).values
    both = run(Subject(identity_sae(2 * D), lm, h, numbers)).values
    assert both["ce_zero"] != only_first["ce_zero"]
    sae = some_sae(2 * D)
    expected = by_hand(lm, h, sae, numbers)
    assert run(Subject(sae, lm, h, numbers)).values["ce_spliced"] == pytest.approx(expected["ce_spliced"], rel=1e-5)


def test_masked_positions_keep_the_clean_activation(lm: FrozenLM, windows: Windows) -> None:
    """With every token masked no run differs from the clean one."""
    h = harvester(lm, windows)
    h = h.with_mask(MaskPolicy(special_ids=tuple(range(257)), norm_multiple=None))
    values = DownstreamStudy(show_progress=False).run(Subject(some_sae(), lm, h, range(6))).values
    assert values["ce_spliced"] == values["ce_clean"] == values["ce_zero"] == values["ce_mean"]
    assert values["kl"] == 0.0
    assert values["ce_recovered_zero"] is None


def test_does_not_depend_on_how_windows_are_grouped(lm: FrozenLM, windows: Windows) -> None:
    h = harvester(lm, windows)
    one = Harvester(lm, h.sites, windows, h.mask, micro_batch=1)
    numbers = list(range(10))
    a = plain(heldout_metrics(Subject(some_sae(), lm, h, numbers), show_progress=False))
    b = plain(heldout_metrics(Subject(some_sae(), lm, one, numbers[::-1]), show_progress=False))
    del a["dead"], b["dead"]
    assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


def test_row_studies_equal_one_big_batch(lm: FrozenLM, windows: Windows) -> None:
    sae = some_sae()
    g = torch_generator(9)
    x = torch.randn(9000, D, generator=g) + 30
    with torch.no_grad():
        out = sae(x)
    reconstruction = ReconstructionStudy(show_progress=False).run(Subject(sae, rows=x))
    sparsity = SparsityStudy(show_progress=False).run(Subject(sae, rows=x))
    x64, y64 = x.double(), out.y_hat.double()
    fvu = (y64 - x64).square().sum() / (x64 - x64.mean(0)).square().sum()
    assert reconstruction.tokens == sparsity.tokens == 9000
    assert reconstruction.values["fvu"] == pytest.approx(float(fvu), rel=1e-6)
    assert sparsity.values["l0"] == pytest.approx(float(out.features.l0().double().mean()), rel=1e-6)
    assert sparsity.values["l1"] == pytest.approx(float(out.features.l1().double().mean()), rel=1e-6)


def test_rows_alone_give_no_downstream_numbers() -> None:
    x = torch.randn(100, D, generator=torch_generator(2))
    values = plain(
        heldout_metrics(Subject(some_sae(), rows=x), dead=Estimate(0.25, None, None, 9), show_progress=False)
    )
    assert tuple(values) == HELDOUT_KEYS
    assert values["dead"] == 0.25
    none = {key for key, value in values.items() if value is None}
    assert none == {"ce_clean", "ce_spliced", "delta_ce", "kl", "ce_recovered_zero", "ce_recovered_mean"}
    with pytest.raises(UserError, match="language model"):
        DownstreamStudy().run(Subject(some_sae(), rows=x))
    with pytest.raises(UserError, match="held-out"):
        ReconstructionStudy().run(Subject(some_sae()))


def test_a_transcoder_is_measured_on_its_targets() -> None:
    g = torch_generator(4)
    batch = ActivationBatch(torch.randn(50, D, generator=g), torch.randn(50, 9, generator=g), torch.arange(50))
    sae = some_sae(D, 9)
    values = plain(heldout_metrics(Subject(sae, rows=batch), show_progress=False))
    with torch.no_grad():
        error = (sae(batch.x).y_hat - batch.y).double().square().sum()
    y = batch.y.double()
    assert values["fvu"] == pytest.approx(float(error / (y - y.mean(0)).square().sum()), rel=1e-6)


def test_leaves_the_sae_as_it_was(lm: FrozenLM, windows: Windows) -> None:
    sae = some_sae().train()
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    state = torch.get_rng_state()
    heldout_metrics(Subject(sae, lm, harvester(lm, windows), range(4)), show_progress=False)
    assert sae.training
    assert all(torch.equal(before[name], value) for name, value in sae.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in sae.parameters())
