"""Questions asked of a trained SAE, one file each: ``Study.run(subject) -> Result``.

A study takes an SAE that reads raw activations, held-out data and perhaps the language model, and returns numbers.
"""

from sae_lightning.studies.study import Result, Study
from sae_lightning.studies.subject import Subject

__all__ = ["Result", "Study", "Subject"]
