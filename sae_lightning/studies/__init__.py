"""Questions asked of a trained SAE, one file each: ``Study.run(subject) -> Result``.

A study takes an SAE that reads raw activations, held-out data and perhaps the language model, and returns numbers with
their intervals.
"""

from sae_lightning.studies.passes import Pass
from sae_lightning.studies.study import ComparativeStudy, Estimate, Result, Study, Table
from sae_lightning.studies.subject import Subject
from sae_lightning.studies.windows import WindowStudy, measure_all

__all__ = ["ComparativeStudy", "Estimate", "Pass", "Result", "Study", "Subject", "Table", "WindowStudy", "measure_all"]
