"""The thirteen held-out numbers of a run's ``metrics.json``, with their intervals."""

from dataclasses import replace

from sae_lightning.lm.sites import MEMBERS
from sae_lightning.studies.evaluation.downstream import DownstreamStudy
from sae_lightning.studies.evaluation.reconstruction import ReconstructionStudy
from sae_lightning.studies.evaluation.sparsity import SparsityStudy
from sae_lightning.studies.study import Estimate
from sae_lightning.studies.subject import Subject
from sae_lightning.studies.windows import measure_all

HELDOUT_KEYS = (
    "fvu",
    "explained_variance",
    "l0",
    "l1",
    "dead",
    "cosine",
    "l2_ratio",
    "ce_clean",
    "ce_spliced",
    "delta_ce",
    "kl",
    "ce_recovered_zero",
    "ce_recovered_mean",
)


def heldout_metrics(
    subject: Subject, *, dead: Estimate | None = None, draws: int = 0, show_progress: bool = True
) -> dict[str, Estimate]:
    """Return every one of ``HELDOUT_KEYS`` for ``subject``, with value None where it is not defined.

    Reconstruction and sparsity are over ``subject.rows`` where they are given, else over its windows; the downstream
    ones over its windows, undefined without a language model. Of an SAE of two they are ``delta_ce/base``,
    ``delta_ce/tuned`` and so on, and those without such an end undefined.

    dead: what training counted over its last tokens; held-out rows are too few to tell.
    draws: of the bootstrap behind the intervals; 0: no intervals.
    show_progress: False inside something that shows its own progress.
    """
    rows = replace(subject, lm=None, harvester=None, windows=()) if subject.rows is not None else subject
    studies = [ReconstructionStudy(others=False), SparsityStudy()]
    found = measure_all(rows, studies, draws=draws, show_progress=show_progress)
    if subject.has_lm:
        windows = replace(subject, rows=None)
        found |= measure_all(windows, [DownstreamStudy()], draws=draws, show_progress=show_progress)
    undefined = Estimate(None, None, None, 0)
    values = {name: estimate for result in found.values() for name, estimate in result.estimates.items()}
    values["dead"] = dead or undefined
    # Of two language models each has downstream figures of its own.
    of_each = [f"{key}/{member}" for key in HELDOUT_KEYS for member in MEMBERS]
    asked = (*HELDOUT_KEYS, *(name for name in of_each if name in values))
    return {name: values.get(name, undefined) for name in asked}
