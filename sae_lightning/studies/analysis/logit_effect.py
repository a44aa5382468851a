"""Which next tokens does a feature make more and less likely by itself?"""

from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.activations.normalise import row_statistics
from sae_lightning.lm import FrozenLM
from sae_lightning.lm.readout import NoReadout, Readout, find_readout, in_stream
from sae_lightning.lm.sites import member_of
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.studies.directions import written
from sae_lightning.studies.progress import track
from sae_lightning.studies.ranking import largest
from sae_lightning.studies.study import Result, Study, Table
from sae_lightning.studies.subject import Subject

# Numbers in one chunk [features, vocab] of logits: 256 MB in float32; and in one part [vocab, d_model] of W_U.
_LOGITS, _UNEMBEDDING = 1 << 26, 1 << 27


class LogitEffectStudy(Study):
    """What each feature's decoder row adds to the logits on the direct way: through final norm and unembedding alone.

    ``effect_i = (gamma ∘ (d_i - mean(d_i))) W_U^T / s``: logits per unit of the feature's activation. gamma is the
    final norm's weight; the mean is taken off where that norm is a LayerNorm; s is the norm's scale (the root mean
    square of what it reads), here a constant: its median over the kept ones of about ``tokens`` tokens. Without them
    (``tokens`` 0, or no windows) s is 1: the order of a feature's tokens is the same, the size says nothing. An SAE
    with ``layer_norm`` writes its rows times each token's standard deviation: there d_i is the row times the median,
    over the same tokens, of the standard deviation of the raw activations it reads, or the row alone without tokens.

    An approximation. It leaves out what later blocks make of the row, and it holds the norm's scale still, which a row
    along the residual stream moves as well: for small activations it is the exact derivative of the logits, at a site
    after the last block, along rows at right angles to the (centred) residual stream. A model that bends its logits
    (Gemma 2) does so afterwards; the order of tokens is the same. Source: nostalgebraist 2020, "interpreting GPT: the
    logit lens"; of features Bricken et al. 2023, "Towards Monosemanticity".

    Arrays: ``promoted`` and ``suppressed`` [d_sae, n] int32, the n token ids with the largest effect, and the smallest,
    of equal ones the lower id; ``promoted_logit`` and ``suppressed_logit`` float32. Rows of the unembedding that the
    tokenizer has no token for are left out. ``logit_peak`` [d_sae] float32 is how far the most promoted token stands
    out: its effect less the mean effect over the vocabulary, in standard deviations (0 for an effect of nothing). The
    table has the ``shown`` features with the largest peak: long rows move all logits, and rare tokens most of all.
    """

    name: ClassVar[str] = "logit_effect"
    reads_store: ClassVar[bool] = True

    def __init__(
        self,
        n: Annotated[int, Ge(1)] = 10,
        tokens: Annotated[int, Ge(0)] = 1024,
        shown: Annotated[int, Ge(1)] = 50,
        show_progress: bool = True,
    ) -> None:
        self.n, self.tokens, self.shown, self.show_progress = n, tokens, shown, show_progress

    def reason(self, subject: Subject) -> str | None:
        if subject.lm is None:
            return "needs a language model to read tokens from; choose an lm, not lm=none"
        sites = _sites(subject)
        if reason := _not_one_stream(subject.sae, sites, subject.lm.d_model):
            return reason
        if sites and not in_stream(subject.lm, sites[0]):
            return f"{sites[0]} is not known to be added to the residual stream as it is; choose another study"
        try:
            find_readout(subject.lm)
        except NoReadout as error:
            return f"{subject.lm.name}: {error}; choose another study"
        return None

    def run(self, subject: Subject) -> Result:
        lm = subject.lm
        assert lm is not None
        readout = find_readout(lm)
        factor, notes = self._factor(subject, lm, readout)
        if readout.capped:
            notes += ("the model bends its logits after the unembedding: effects are those before it",)
        rows = (readout.folded(written(subject.sae)) * factor).float().to(readout.W_U.device)
        vocabulary = lm.tokenizer.get_vocab().values()
        arrays = self._extremes(rows, readout.W_U[: max(vocabulary) + 1])
        return Result({}, {"strongest": self._table(lm, arrays)}, notes, arrays=arrays)

    def _factor(self, subject: Subject, lm: FrozenLM, readout: Readout) -> tuple[float, tuple[str, ...]]:
        """Return what folded rows count times, and what to say of it."""
        x, stream = self._seen(subject, lm, readout)
        factor, notes = 1.0, []
        if readout.norm is None:
            notes.append("the model has no final norm")
        elif stream is None:
            notes.append("the final norm's scale was not measured: effects are in no unit")
        elif not len(stream):
            notes.append("the mask leaves no token to measure the final norm's scale on: effects are in no unit")
        else:
            scales = readout.scales(stream)
            low, scale, high = scales.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=scales.dtype)).tolist()
            factor = 1 / scale
            notes.append(
                f"logits per unit of activation where the final norm divides by {scale:.4g}, its median over "
                f"{len(scales):,} tokens (10 and 90 %: {low:.4g} and {high:.4g})"
            )
        if subject.sae.layer_norm and x is not None and len(x):
            std = float(row_statistics(x.double())[1].quantile(0.5))
            factor *= std
            notes.append(
                f"the SAE's layer norm is undone by a token's standard deviation: rows count times {std:.4g}, its "
                f"median over {len(x):,} tokens"
            )
        elif subject.sae.layer_norm:
            notes.append("rows are in units of each token's standard deviation, which was not measured")
        return factor, tuple(notes)

    def _seen(self, subject: Subject, lm: FrozenLM, readout: Readout) -> tuple[Tensor | None, Tensor | None]:
        """Return (what the SAE reads, what the final norm reads) of kept tokens; None where there are no windows."""
        harvester = subject.harvester
        if harvester is None or not len(subject.windows) or not self.tokens:
            return None, None
        n = min(len(subject.windows), -(-self.tokens // harvester.windows.context_length))
        spread = np.linspace(0, len(subject.windows) - 1, n).round().astype(int)
        batch, x, keep = harvester.full([int(subject.windows[i]) for i in np.unique(spread)])
        stream = lm.activations(batch.tokens, [readout.site])[readout.site]
        return x[keep], stream[keep.to(stream.device)]

    def _extremes(self, rows: Float[Tensor, "F d"], W_U: Float[Tensor, "V d"]) -> dict[str, NDArray]:
        """Return the n largest and smallest of ``rows @ W_U.T`` in each row, and how far the largest stands out.

        A part of the vocabulary at a time, and of the features.
        """
        n = min(self.n, len(W_U))
        part = max(n, min(len(W_U), _UNEMBEDDING // W_U.shape[1]))
        step = max(1, _LOGITS // part)
        work = [(a, b) for a in range(0, len(W_U), part) for b in range(0, len(rows), step)]
        best: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        sums, squares = torch.zeros(2, len(rows), dtype=torch.float64)
        of_vocabulary = torch.empty(0)
        for a, b in track(work, len(work), self.name, self.show_progress):
            if b == 0:
                of_vocabulary = W_U[a : a + part].float()
            logits = rows[b : b + step] @ of_vocabulary.T
            sums[b : b + step] += logits.sum(1).double().cpu()
            squares[b : b + step] += torch.linalg.vector_norm(logits, dim=1).double().square().cpu()
            for side, sign in enumerate((1, -1)):
                ids, values = largest(logits if sign > 0 else logits.neg_(), n)
                ids, values = (ids + a).cpu(), values.cpu()
                ids_before, before = best.get(2 * b + side, ([], []))
                best[2 * b + side] = _merged([*ids_before, ids], [*before, values], n)
        out: dict[str, NDArray] = {}
        for side, (name, sign) in enumerate((("promoted", 1), ("suppressed", -1))):
            found = [best[2 * b + side] for b in range(0, len(rows), step)]
            out[name] = torch.cat([each[0][0] for each in found]).numpy().astype(np.int32)
            out[f"{name}_logit"] = sign * torch.cat([each[1][0] for each in found]).numpy()
        mean = (sums / len(W_U)).numpy()
        spread = np.sqrt(np.maximum((squares / len(W_U)).numpy() - mean**2, 0.0))
        above = out["promoted_logit"][:, 0] - mean
        out["logit_peak"] = np.where(spread > 0, above / np.where(spread > 0, spread, 1.0), 0.0).astype(np.float32)
        return out

    def _table(self, lm: FrozenLM, arrays: dict[str, NDArray]) -> Table:
        columns = ("feature", "peak", "promoted", "promoted_logit", "suppressed", "suppressed_logit")
        rows = []
        for i in np.argsort(-arrays["logit_peak"], kind="stable")[: self.shown]:
            promoted, suppressed = (
                " ".join(repr(lm.tokenizer.decode([int(t)])) for t in arrays[side][i])
                for side in ("promoted", "suppressed")
            )
            up, down = float(arrays["promoted_logit"][i, 0]), float(arrays["suppressed_logit"][i, 0])
            rows.append((int(i), float(arrays["logit_peak"][i]), promoted, up, suppressed, down))
        caption = (
            "Features whose most promoted token stands out most (peak: in standard deviations over the vocabulary)"
        )
        return Table(columns, tuple(rows), caption)


def _not_one_stream(sae: SparseAutoencoder, sites: tuple[str, ...], d_model: int) -> str | None:
    """Return why what an SAE writes is not as wide as one model's residual stream. sites: as far as known."""
    if len(sites) > 1 or sae.n_sites > 1:
        return (
            f"this SAE writes {max(len(sites), sae.n_sites)} sites, and the effect is that of one; choose another study"
        )
    if sites and member_of(sites[0])[0] is not None:
        return "this SAE writes one of two language models; choose another study"
    if sae.d_out != d_model:
        return f"this SAE writes {sae.d_out} numbers and the residual stream has {d_model}; choose another study"
    return None


def _sites(subject: Subject) -> tuple[str, ...]:
    if subject.harvester is not None:
        return subject.harvester.sites.write
    return tuple((subject.sae.metadata.get("sites") or {}).get("write") or ())


def _merged(ids: list[Tensor], values: list[Tensor], n: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the n largest of several parts, each largest first; parts with lower ids come first."""
    if len(ids) == 1:
        return ids, values
    at, found = largest(torch.cat(values, dim=1), n)
    return [torch.cat(ids, dim=1).gather(1, at)], [found]
