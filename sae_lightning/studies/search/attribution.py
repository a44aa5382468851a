"""Which features make the model say this rather than that, and what does it say without each of them?"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, MinLen
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.studies.directions import written
from sae_lightning.studies.precision import in_float32, rounding_notes
from sae_lightning.studies.progress import track
from sae_lightning.studies.removal import contribution
from sae_lightning.studies.search.agreement import agreement
from sae_lightning.studies.search.continuation import decoded, single_token
from sae_lightning.studies.search.prompts import reader_of, shown
from sae_lightning.studies.search.spliced import Measure, SplicedPrompt
from sae_lightning.studies.study import Result, Study, Table
from sae_lightning.studies.subject import NEEDS_READER, Subject

COLUMNS = ("feature", "score", "ablation", "activation", "tokens", "token")


class AttributionSearch(Study):
    """Features by activation times gradient of a difference of logits, and by exact ablation of the first of them.

    ``m = logit(target) - logit(against)`` after the prompt's last token; without ``against`` the second is the mean
    over the vocabulary. The model runs with what is written at the kept tokens t (``SplicedPrompt``), y_t, and

    - ``a_i = sum_t f_i(t) <d_i, dm/dy_t>``, of every feature from one backward pass (times the token's standard
      deviation under ``layer_norm``): its effect to first order, and the table's order by |a_i| (score);
    - ``ablation_i = m - m without f_i(t) d_i at every t``, of the n first, each by a run of its own.

    Both above 0 where the feature speaks for the target. Of a crosscoder d_i and y_t are those of all sites side by
    side; a transcoder's are those it writes. The estimates ``sign_agreement`` and ``rank_correlation`` say how well the
    first tells the second (``search.agreement``). Source: attribution patching, Nanda 2023; of SAE features, Marks et
    al. 2024, "Sparse Feature Circuits".

    keep_error: the SAE's error stays in what is written, so that m is the model's own; false: the reconstruction takes
    the place of the activations. float32: the language model runs in float32 meanwhile. space: see ``single_token``.
    Raises UserError for a target of several tokens, equal to ``against``, and what ``SplicedPrompt`` refuses.
    """

    name: ClassVar[str] = "search_attribution"

    def __init__(
        self,
        prompt: Annotated[str, MinLen(1)],
        target: Annotated[str, MinLen(1)],
        against: Annotated[str, MinLen(1)] | None = None,
        n: Annotated[int, Ge(1)] = 20,
        keep_error: bool = True,
        float32: bool = True,
        space: bool = True,
        seed: int = 0,
        show_progress: bool = True,
    ) -> None:
        self.prompt, self.target, self.against, self.n = prompt, target, against, n
        self.keep_error, self.float32, self.space = keep_error, float32, space
        self.seed, self.show_progress = seed, show_progress

    def reason(self, subject: Subject) -> str | None:
        return NEEDS_READER if subject.reader is None else None

    def run(self, subject: Subject) -> Result:
        reader = reader_of(subject, self.name)
        pieces, ids = reader.cut(self.prompt)
        target = single_token(reader, self.prompt, self.target, "target", space=self.space)
        against = None
        if self.against is not None:
            against = single_token(reader, self.prompt, self.against, "against", space=self.space)
            if against == target:
                raise UserError(f"against={self.against!r}: is the target itself; give another token")

        def measure(logits: Float[Tensor, "k p vocab"]) -> Float[Tensor, "k"]:
            after = logits[:, prompt.last].double()
            return after[:, target] - (after.mean(-1) if against is None else after[:, against])

        with in_float32(reader.lm, self.float32):
            prompt = SplicedPrompt(reader, ids, keep_error=self.keep_error)
            scores, value = attribution(prompt, measure)
            row, index, activation = prompt.features.triples()
            active = torch.unique(index)
            order = scores[active].abs().argsort(descending=True, stable=True)
            chosen = active[order][: self.n].tolist()
            exact = self._ablated(prompt, chosen, measure)
            rounding = rounding_notes(reader.lm)
        rows = []
        for feature, without in zip(chosen, exact, strict=True):
            mine = index == feature
            strongest = int(activation[mine].abs().argmax())
            piece = pieces[int(prompt.number[row[mine].to(prompt.number.device)[strongest]])]
            rows.append(
                (feature, float(scores[feature]), without, float(activation[mine][strongest]), int(mine.sum()), piece)
            )
        said = decoded(reader, [target]) + " over "
        said += "the mean of all tokens" if against is None else decoded(reader, [against])
        notes = (
            f"m = {value:.4g}: logit of {said} after {shown(self.prompt)}",
            f"{len(active):,} features are active; their attributions add up to {float(scores[active].sum()):.4g}",
            *rounding,
        )
        caption = f"Features for {said} by activation x gradient, logits"
        found = agreement([r[1] for r in rows], [r[2] for r in rows], self.name, self.seed)
        return Result(found, {"features": Table(COLUMNS, tuple(rows), caption)}, notes)

    def _ablated(self, prompt: SplicedPrompt, features: Sequence[int], measure: Measure) -> list[float]:
        """Return ``m - m without it`` of each feature, from runs of a batch with nothing changed in its first row."""
        out: list[float] = []
        step = prompt.at_once - 1
        firsts = range(0, len(features), step)
        for first in track(firsts, len(firsts), "ablation of features", self.show_progress):
            changed = [prompt.base]
            for feature in features[first : first + step]:
                where, added = contribution(prompt.sae, prompt.features, feature)
                without = prompt.base.clone()
                without[where] -= added.detach()
                changed.append(without)
            values = measure(prompt.logits(changed))
            out += (values[0] - values[1:]).tolist()
        return out


def gradient(prompt: SplicedPrompt, measure: Measure) -> tuple[Float[Tensor, "n d_out"], float]:
    """Return the gradient of ``measure(logits)`` [1] in what is written at each kept token, and its value."""
    rows = prompt.base.detach().clone().requires_grad_(True)
    value = measure(prompt.logits([rows], grad=True))
    (gradients,) = torch.autograd.grad(value.sum(), rows)
    return gradients, float(value.detach())


def attribution(prompt: SplicedPrompt, measure: Measure) -> tuple[Float[Tensor, "d_sae"], float]:
    """Return each feature's activation times gradient, summed over kept tokens, float64; and ``measure``'s value."""
    gradients, value = gradient(prompt, measure)
    row, index, activation = prompt.features.triples()
    directions = written(prompt.sae)
    slopes = (gradients * prompt.scale).double()
    out = directions.new_zeros(prompt.sae.d_sae)
    for part in torch.arange(len(row), device=row.device).split(1 << 14):
        effect = (directions[index[part]] * slopes[row[part]]).sum(1) * activation[part].double()
        out.index_add_(0, index[part], effect)
    return out, value
