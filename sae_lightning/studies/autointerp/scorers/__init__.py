"""Who says how well an explanation holds: one scorer a file, from records and explanations to scores."""

from sae_lightning.studies.autointerp.scorers.detection import DetectionScorer
from sae_lightning.studies.autointerp.scorers.fuzzing import FuzzingScorer
from sae_lightning.studies.autointerp.scorers.rubric import RubricScorer

__all__ = ["DetectionScorer", "FuzzingScorer", "RubricScorer"]
