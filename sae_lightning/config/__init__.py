"""Config models: types, ranges and cross-field rules, each broken rule one line that names value, rule and remedy.

Hydra composes the yaml files and refuses unknown keys; this room says what the values may be. Nodes with a ``_target_``
(the SAE, a loss, a callback, a study) are checked against the type annotations of the constructor they name, so that a
new architecture or loss brings its own rules and this room stays as it is.
"""

from sae_lightning.config.analyze import AnalyzeConfig
from sae_lightning.config.asking import AsksSAE
from sae_lightning.config.evaluate import EvaluateConfig, ReadsSAE
from sae_lightning.config.files import (
    OVERRIDES_FILE,
    absolute_model,
    config_text,
    load_config,
    save_config,
    validate,
    with_absolute_data,
    with_absolute_name,
    with_absolute_paths,
)
from sae_lightning.config.index import IndexConfig
from sae_lightning.config.interpret import InterpretConfig
from sae_lightning.config.run import RunConfig
from sae_lightning.config.search import SearchConfig
from sae_lightning.config.sections import (
    Count,
    CountOrZero,
    DataConfig,
    EvaluationConfig,
    LMConfig,
    Node,
    NormaliseConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PathsConfig,
    SchedulerConfig,
    Section,
    SitesConfig,
    TrainerConfig,
    TunedConfig,
)
from sae_lightning.config.steer import SteerConfig
from sae_lightning.config.tokenize import TokenizeConfig

__all__ = [
    "OVERRIDES_FILE",
    "AnalyzeConfig",
    "AsksSAE",
    "Count",
    "CountOrZero",
    "DataConfig",
    "EvaluateConfig",
    "EvaluationConfig",
    "IndexConfig",
    "InterpretConfig",
    "LMConfig",
    "Node",
    "NormaliseConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PathsConfig",
    "ReadsSAE",
    "RunConfig",
    "SchedulerConfig",
    "SearchConfig",
    "Section",
    "SitesConfig",
    "SteerConfig",
    "TokenizeConfig",
    "TrainerConfig",
    "TunedConfig",
    "absolute_model",
    "config_text",
    "load_config",
    "save_config",
    "validate",
    "with_absolute_data",
    "with_absolute_name",
    "with_absolute_paths",
]
