"""Over how many logits does the effect of one feature spread?"""

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import UserError, torch_generator
from sae_lightning.metrics import RunningMetric
from sae_lightning.metrics.bootstrap import FEWEST
from sae_lightning.metrics.effect import EffectSpread, effect_spread
from sae_lightning.studies.passes import Pass
from sae_lightning.studies.precision import in_float32, rounding_notes
from sae_lightning.studies.removal import contribution, run_beside
from sae_lightning.studies.splice import text_chunks, windows_at_a_time
from sae_lightning.studies.study import Result, Study
from sae_lightning.studies.subject import NEEDS_LM, NEEDS_ONE_LM, Subject
from sae_lightning.studies.windows import DRAWS, WindowStudy, measure_all


class AblationSparsityStudy(Study):
    """``ablation_sparsity ablation_sparsity_random``, formula in ``metrics.effect.EffectSpread``; lower is sparser.

    An active feature is removed at one token: its ``f_i d_i`` is taken out of what is written there. The logits of that
    token and the ``span - 1`` next are compared with the run in which it stayed: the spliced run (the reconstruction
    everywhere), or with ``keep_error`` the clean one, the SAE's error kept. Its baseline takes out a random direction
    of the same length at the same token. Pairs (token, feature) are drawn evenly from the active ones that have
    ``span`` tokens left in their window. Gao et al. 2024, section 4.5.

    Estimates count pairs; intervals: a bootstrap over windows.

    windows: how many, from the first. pairs: in each. span: tokens whose logits are compared.
    float32: run the language model in float32 meanwhile. Half precision spreads its rounding over all logits: measured
        on SmolLM2, 0.48 in bfloat16 and 0.27 in float32.
    seed: of the pairs and the random directions. draws: of the bootstrap.

    Raises UserError without a language model and for windows that are shorter than ``span``.
    """

    name: ClassVar[str] = "ablation_sparsity"

    def __init__(
        self,
        windows: Annotated[int, Ge(FEWEST)] = 16,
        pairs: Annotated[int, Ge(1)] = 4,
        span: Annotated[int, Ge(1)] = 16,
        keep_error: bool = False,
        float32: bool = True,
        seed: int = 0,
        draws: Annotated[int, Ge(100)] = DRAWS,
        show_progress: bool = True,
    ) -> None:
        self.windows, self.pairs, self.span, self.keep_error = windows, pairs, span, keep_error
        self.float32, self.seed, self.draws, self.show_progress = float32, seed, draws, show_progress

    def reason(self, subject: Subject) -> str | None:
        if not subject.has_lm:
            return NEEDS_LM
        if not subject.has_one_lm:
            return NEEDS_ONE_LM
        if subject.window_tokens <= self.span:
            return (
                f"needs windows longer than span={self.span}, these have {subject.window_tokens} positions; lower "
                "studies.ablation_sparsity.span"
            )
        return None

    def run(self, subject: Subject) -> Result:
        if reason := self.reason(subject):
            raise UserError(f"ablation_sparsity: {reason}")
        assert subject.lm is not None
        some = replace(subject, windows=subject.windows[: self.windows])
        with in_float32(subject.lm, self.float32):
            measured = measure_all(
                some, [_Pairs(self)], draws=self.draws, seed=self.seed, show_progress=self.show_progress
            )[self.name]
            return replace(measured, notes=(*measured.notes, *rounding_notes(subject.lm)))


class _Pairs(WindowStudy):
    name: ClassVar[str] = AblationSparsityStudy.name

    def __init__(self, settings: AblationSparsityStudy) -> None:
        self.settings = settings

    def measure(self, subject: Subject, unit: Pass) -> list[tuple[RunningMetric, ...]]:
        assert subject.lm is not None
        settings = self.settings
        at_once = max(1, windows_at_a_time(subject.lm, subject.window_tokens) - 1)
        metrics = [EffectSpread() for _ in unit.numbers]
        for metric, (part, rows), number in zip(metrics, text_chunks(unit, 1), unit.numbers, strict=True):
            features = unit.features.slice(rows.start, rows.stop)
            base = unit.y[rows] if settings.keep_error else unit.y_hat[rows]
            position = part.keep[0].nonzero()[:, 0]
            row, feature, _ = features.triples()
            allowed = (position[row] + settings.span <= int(part.tokens.mask[0].sum())).nonzero()[:, 0].cpu()
            generator = torch_generator(settings.seed, "studies", self.name, number)
            chosen = allowed[torch.randperm(len(allowed), generator=generator)[: settings.pairs]]
            changed: list[Tensor] = []
            places: list[int] = []
            for pair in chosen.tolist():
                at = int(row[pair])
                rows_of, added = contribution(unit.sae, features, int(feature[pair]))
                one = added[rows_of == at][0]
                for taken in (one, _random_like(one, generator)):
                    without = base.clone()
                    without[at] -= taken
                    changed.append(without)
                    places.append(int(position[at]))
            spreads: list[float] = []
            for first in range(0, len(changed), at_once):
                some = slice(first, first + at_once)
                logits = run_beside(subject, part, base, changed[some])
                for i, place in enumerate(places[some], start=1):
                    span = slice(place, place + settings.span)
                    spreads.append(effect_spread(logits[i, span].float() - logits[0, span].float()))
            for removed, random in zip(spreads[0::2], spreads[1::2], strict=True):
                metric.update(removed, random)
        return [(metric,) for metric in metrics]


def _random_like(vector: Float[Tensor, "d"], generator: torch.Generator) -> Float[Tensor, "d"]:
    random = torch.randn(len(vector), generator=generator).to(vector)
    return random * (vector.norm() / random.norm())
