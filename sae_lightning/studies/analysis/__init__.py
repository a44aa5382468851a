"""What the features of a store are: one question a file, asked of which features fire on which tokens."""

from sae_lightning.studies.analysis.clusters import ClustersStudy
from sae_lightning.studies.analysis.colouring import ColouringStudy
from sae_lightning.studies.analysis.completeness import CompletenessStudy
from sae_lightning.studies.analysis.contexts import ContextsStudy
from sae_lightning.studies.analysis.cooccurrence import CooccurrenceStudy
from sae_lightning.studies.analysis.density import DensityStudy
from sae_lightning.studies.analysis.logit_effect import LogitEffectStudy
from sae_lightning.studies.analysis.neighbourhood import NeighbourhoodStudy
from sae_lightning.studies.analysis.neighbourhoods import NeighbourhoodsStudy
from sae_lightning.studies.analysis.neuron_correlation import NeuronCorrelationStudy
from sae_lightning.studies.analysis.similarity import SimilarityStudy
from sae_lightning.studies.analysis.splitting import SplittingStudy

__all__ = [
    "ClustersStudy",
    "ColouringStudy",
    "CompletenessStudy",
    "ContextsStudy",
    "CooccurrenceStudy",
    "DensityStudy",
    "LogitEffectStudy",
    "NeighbourhoodStudy",
    "NeighbourhoodsStudy",
    "NeuronCorrelationStudy",
    "SimilarityStudy",
    "SplittingStudy",
]
