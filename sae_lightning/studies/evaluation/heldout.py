"""The thirteen held-out numbers of a run's ``metrics.json``."""

from sae_lightning.studies.evaluation.downstream import DownstreamStudy
from sae_lightning.studies.evaluation.reconstruction import ReconstructionObserver
from sae_lightning.studies.evaluation.rows import observe_rows
from sae_lightning.studies.evaluation.sparsity import SparsityObserver
from sae_lightning.studies.study import defined
from sae_lightning.studies.subject import Subject

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
    subject: Subject, *, dead: float | None = None, show_progress: bool = True
) -> dict[str, float | None]:
    """Return every one of ``HELDOUT_KEYS`` for ``subject``, None where a value is not defined.

    The row metrics take one pass over the held-out rows, which also gives the mean that mean ablation writes; the
    downstream ones are None without a language model.

    dead: what training counted over its last tokens; held-out rows are too few to tell.
    show_progress: False inside something that shows its own progress.
    """
    reconstruction, sparsity = ReconstructionObserver(subject), SparsityObserver(subject)
    observe_rows(subject, [reconstruction, sparsity], "held-out rows", show_progress)
    values = defined(reconstruction.values() | sparsity.values()) | {"dead": dead}
    if subject.has_lm:
        values |= DownstreamStudy(reconstruction.fvu.mean, show_progress).run(subject).values
    return {key: values.get(key) for key in HELDOUT_KEYS}
