"""What a set of runs says together: Pareto fronts, and how the loss falls with width, sparsity and compute.

Records go in, fronts and fitted laws with intervals come out; reports draw them.
"""

from sae_lightning.studies.scaling.fit import Fit, Law, Refusal, fit_law
from sae_lightning.studies.scaling.fronts import Front, fronts
from sae_lightning.studies.scaling.laws import preferred, scaling_laws, subjects
from sae_lightning.studies.scaling.pareto import front, front_rows, hypervolume, write_front
from sae_lightning.studies.scaling.records import Collection, Missing, Record, collect

__all__ = [
    "Collection",
    "Fit",
    "Front",
    "Law",
    "Missing",
    "Record",
    "Refusal",
    "collect",
    "fit_law",
    "front",
    "front_rows",
    "fronts",
    "hypervolume",
    "preferred",
    "scaling_laws",
    "subjects",
    "write_front",
]
