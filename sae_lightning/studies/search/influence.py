"""Which features, when boosted, move the model most towards a wanted text?"""

import math
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, MinLen
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.studies.directions import written
from sae_lightning.studies.precision import in_float32, rounding_notes
from sae_lightning.studies.progress import track
from sae_lightning.studies.search.agreement import agreement
from sae_lightning.studies.search.attribution import gradient
from sae_lightning.studies.search.base_rate import base_rate
from sae_lightning.studies.search.continuation import continuation, decoded
from sae_lightning.studies.search.prompts import reader_of, shown
from sae_lightning.studies.search.spliced import Measure, SplicedPrompt
from sae_lightning.studies.study import Result, Study, Table
from sae_lightning.studies.subject import NEEDS_READER, Subject

COLUMNS = ("feature", "score", "first_order", "set_to", "density")
# Numbers in one chunk of the filter's products: 256 MB in float64.
_PRODUCTS = 1 << 25


class InfluenceSearch(Study):
    """Features by how much more likely the wanted text becomes when they are set to a strength, nats.

    ``gain_i = log p(want | prompt, f_i := strength L_i) - log p(want | prompt)``, summed over the wanted tokens, each
    after those before it. L_i is the feature's largest activation at large; it is set at every kept token of the
    prompt, and the SAE's error is kept: ``y_t + (strength L_i - f_i(t)) d_i`` is written (times the token's standard
    deviation under ``layer_norm``). Wanted tokens stay as they are.

    All features that fire at large are estimated to first order, by the gradient where nothing is changed, and the
    ``candidates`` first are run; the table is theirs by exact gain (score). A strength of several times the largest
    activation is far from first order: ``sign_agreement`` and ``rank_correlation`` over the candidates say how far.
    The filter may miss features; candidates as many as the SAE has misses none.

    strength: finite, not 0. space: see ``continuation``. float32: see ``AttributionSearch``. The subject needs what
    ``PromptSearch`` needs. Raises UserError for a strength that is 0, no number, or more than the model's arithmetic
    holds, and what ``SplicedPrompt`` refuses.
    """

    name: ClassVar[str] = "search_influence"

    def __init__(
        self,
        prompt: Annotated[str, MinLen(1)],
        want: Annotated[str, MinLen(1)],
        strength: float = 1.0,
        candidates: Annotated[int, Ge(1)] = 100,
        n: Annotated[int, Ge(1)] = 20,
        float32: bool = True,
        space: bool = True,
        seed: int = 0,
        show_progress: bool = True,
    ) -> None:
        if not math.isfinite(strength) or strength == 0:
            raise UserError(f"strength={strength}: must be a finite number other than 0; 1 is the feature's largest")
        self.prompt, self.want, self.strength = prompt, want, float(strength)
        self.candidates, self.n, self.float32, self.space = max(n, candidates), n, float32, space
        self.seed, self.show_progress = seed, show_progress

    def reason(self, subject: Subject) -> str | None:
        return NEEDS_READER if subject.reader is None else None

    def run(self, subject: Subject) -> Result:
        reader = reader_of(subject, self.name)
        _, ids = reader.cut(self.prompt)
        want = continuation(reader, self.prompt, self.want, space=self.space)
        base = base_rate(subject, self.show_progress)
        set_to = self.strength * torch.from_numpy(base.largest.astype(np.float64)).to(subject.device)
        with in_float32(reader.lm, self.float32):
            prompt = SplicedPrompt(reader, np.concatenate([ids, want]))
            boosted = prompt.number < len(ids)
            if not boosted.any():
                raise UserError(f"prompt {shown(self.prompt)}: the SAE's mask leaves none of its tokens; give more")

            def measure(logits: Float[Tensor, "k p vocab"]) -> Float[Tensor, "k"]:
                first = prompt.last - len(want)
                after = logits[:, first : prompt.last].double().log_softmax(-1)
                wanted = torch.from_numpy(want).to(after.device)[None, :, None].expand(len(after), -1, 1)
                return after.gather(-1, wanted)[..., 0].sum(1)

            gradients, before = gradient(prompt, measure)
            first = self._first_order(prompt, gradients * boosted.to(gradients)[:, None], set_to)
            first[torch.from_numpy(base.count == 0).to(first.device)] = -math.inf
            order = first.argsort(descending=True, stable=True)[: self.candidates]
            chosen = [i for i in order.tolist() if math.isfinite(float(first[i]))]
            gains = self._exact(prompt, chosen, set_to, boosted, measure)
            if not all(map(math.isfinite, gains)):
                raise UserError(f"strength={self.strength:g}: the model's logits are no numbers there; give less")
            rounding = rounding_notes(reader.lm)
        found = agreement(first[chosen].tolist(), gains, self.name, self.seed)
        rows = [
            (feature, gain, float(first[feature]), float(set_to[feature]), base.density(feature))
            for feature, gain in zip(chosen, gains, strict=True)
        ]
        rows.sort(key=lambda row: (-row[1], row[0]))
        said = decoded(reader, want)
        notes = (
            f"log p({said} after {shown(self.prompt)}) = {before:.4g} with nothing changed",
            f"{len(chosen):,} of {int((base.count > 0).sum()):,} features that fire were run; estimates are of those",
            *rounding,
        )
        caption = f"Features by gain of log p({said}) at {self.strength:g} x their largest activation, nats"
        return Result(found, {"features": Table(COLUMNS, tuple(rows[: self.n]), caption)}, notes)

    def _first_order(
        self, prompt: SplicedPrompt, gradients: Float[Tensor, "n d_out"], set_to: Float[Tensor, "d_sae"]
    ) -> Float[Tensor, "d_sae"]:
        """Return ``sum_t (set_to_i - f_i(t)) <d_i, gradient_t>`` of every feature."""
        slopes = (gradients * prompt.scale).double()
        directions = written(prompt.sae)
        total = slopes.sum(0)
        out = torch.cat([rows @ total for rows in directions.split(max(1, _PRODUCTS // len(total)))]) * set_to
        row, index, activation = prompt.features.triples()
        for part in torch.arange(len(row), device=row.device).split(1 << 14):
            effect = (directions[index[part]] * slopes[row[part]]).sum(1) * activation[part].double()
            out.index_add_(0, index[part], -effect)
        return out

    def _exact(
        self, prompt: SplicedPrompt, features: list[int], set_to: Tensor, boosted: Tensor, measure: Measure
    ) -> list[float]:
        row, index, activation = prompt.features.triples()
        directions, scale = written(prompt.sae), prompt.scale.double()
        out: list[float] = []
        step = prompt.at_once - 1
        firsts = range(0, len(features), step)
        for first in track(firsts, len(firsts), "runs with features boosted", self.show_progress):
            changed = [prompt.base]
            for feature in features[first : first + step]:
                missing = set_to[feature].repeat(prompt.n)
                mine = index == feature
                missing[row[mine]] -= activation[mine].double()
                missing = missing * boosted.to(missing)
                added = missing[:, None] * scale * directions[feature]
                changed.append(prompt.base + added.to(prompt.base))
            values = measure(prompt.logits(changed))
            out += (values[1:] - values[0]).tolist()
        return out
