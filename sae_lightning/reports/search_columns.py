"""What the columns of a search's table mean, and how its cells are read: said once, for the table and the page."""

from typing import Any

from sae_lightning.reports.evaluation_data import short
from sae_lightning.reports.site.escape import visible

#: What a search found, by its way: the title, and what its score is.
TITLES = {
    "prompt": "features of a prompt",
    "all": "features of all and none",
    "near": "neighbours",
    "attribute": "features behind a prediction",
    "influence": "features that move the prediction",
    "concept": "features by explanation",
}
SCORES = {
    "prompt": "surprise at so strong an activation, nats",
    "all": "surprise at being active on all, nats",
    "near": "cosine of decoder directions",
    "attribute": "activation x gradient: effect on the difference of logits to first order",
    "influence": "gain of the wanted text's log probability, nats",
    "concept": "share of the words found, rare words counting for more",
}
MEANINGS = {
    "feature": "number of the feature",
    "sae": "whose feature",
    "activation": "of the feature, where it is strongest (token=mean: over the prompt)",
    "of_largest": "the activation as a share of the feature's largest at large",
    "density": "share of tokens at large on which it is active",
    "token": "the prompt's token on which it is strongest",
    "positives": "positive prompts on which it is active",
    "negatives": "negative prompts on which it is active",
    "weakest": "its weakest activation on a positive prompt, as a share of its largest",
    "ablation": "difference of logits with the feature less that without it, by a run",
    "tokens": "tokens of the prompt on which it is active",
    "first_order": "the gain that the gradient foresees, nats",
    "set_to": "the activation that it is set to",
    "found": "words found",
    "by": "who explained it",
    "fires_on": "tokens of its strongest examples",
    "explanation": "what it is said to mean",
}
FIGURES = {
    "sign_agreement": "share of the features run whose first-order effect has the sign of the exact one",
    "rank_correlation": "Spearman's correlation of first-order and exact effects, over the features run",
}

#: Columns of texts that take several words.
WORDY = ("fires_on", "explanation", "found")
_LONGEST = 300


def meaning(way: str, column: str) -> str:
    """Return what a column holds."""
    return SCORES.get(way, "") if column == "score" else MEANINGS.get(column, "")


def cell_text(column: str, value: Any) -> str:
    """Return a cell as it is shown: four digits, and texts with a symbol for what can't be seen.

    A token stands in quotes, which show its spaces; a long text loses its end.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        return short(value)
    said = visible(repr(value) if column == "token" else value)
    return said if len(said) <= _LONGEST else said[:_LONGEST] + "..."


def feature_text(value: Any) -> str:
    """Return a feature's number, which is a name: without separators."""
    return "" if value is None else str(value)
