"""What the columns of studies' tables mean, by study: a word as short as ``cosine`` means something else in each."""

_FEATURE = "number of the feature"
_DENSITY = "share of tokens it is active on"
_LARGEST = "largest activation"
_CONTEXT = "the token that it is about, in its text"

#: By study, of each column: what it means. Not here: a heading that says it all.
_MEANINGS: dict[str, dict[str, str]] = {
    "density": {
        "feature": _FEATURE,
        "count": "tokens it is active on",
        "density": _DENSITY,
        "mean": "mean activation where it is active",
        "largest": _LARGEST,
    },
    "similarity": {
        "feature": _FEATURE,
        "neighbour": "the feature whose decoder direction is nearest",
        "cosine": "cosine of the two decoder directions",
        "dot": "product of the two decoder rows",
        "euclidean": "distance of the two decoder rows",
    },
    "logit_effect": {
        "feature": _FEATURE,
        "peak": "how far the most promoted token stands out, in standard deviations over the vocabulary",
        "promoted": "tokens that it makes likelier, the most first",
        "promoted_logit": "what it adds to the logit of the first of them",
        "suppressed": "tokens that it makes less likely, the most first",
        "suppressed_logit": "what it adds to the logit of the first of them",
    },
    "contexts": {
        "feature": _FEATURE,
        "kind": "among the strongest, the weakest, or drawn from a slice in between",
        "value": "activation",
        "token": _CONTEXT,
        "text": "number of the text in the store",
        "position": "place in its text, in tokens",
    },
    "cooccurrence": {
        "feature": _FEATURE,
        "partner": "the feature that fires together with it",
        "count": "tokens on which both fire",
        "jaccard": "tokens on which both fire over those on which either does",
        "pmi": "pointwise mutual information of firing, nats",
        "correlation": "correlation of the two features' activations over tokens",
    },
    "clusters": {
        "cluster": "number of the cluster",
        "size": "features in it",
        "cohesion": "where one of its features fires, the share of the others that fire, too",
        "token": "number of the token in the store",
        "piece": _CONTEXT,
        "active": "features of the cluster that fire on the token",
    },
    "neighbourhood": {
        "around": "the feature that was asked about",
        "rank": "how near it is: 1 is the nearest, 0 the feature itself",
        "cosine": "cosine of the two decoder directions",
        "x": "place on the map",
        "y": "place on the map",
    },
    "neighbourhoods": {
        "around": "the feature of the first SAE that was asked about",
        "rank": "how near it is: 1 is the nearest, 0 the feature itself",
        "sae": "whose feature it is",
        "cosine": "cosine of the two decoder directions, each SAE's taken from their mean",
        "x": "place on the map",
        "y": "place on the map",
    },
    "neuron_correlation": {
        "feature": _FEATURE,
        "layer": "layer of the neuron",
        "neuron": "number of the neuron in its layer",
        "correlation": "Pearson's r of the feature's and the neuron's activations over tokens",
        "firings": "tokens on which the feature fires",
        "features": "features whose best neuron is in this layer",
        "mean": "their mean |r|",
    },
    "completeness": {
        "token": "the concept's last token",
        "feature": _FEATURE,
        "activation": "activation on that token, mean over templates",
        "templates": "in how many templates it fires",
        "others": "other concepts that it fires for",
        "density": _DENSITY,
        "named": "of its strongest examples, the share that name the concept",
        "own": "whether it is the concept's own",
        "covered": "whether there is a feature of its own",
    },
    "splitting": {
        "narrow": "feature of the narrow SAE",
        "wide": "its descendant in the wide SAE",
        "cosine": "cosine of the two decoder directions",
        "narrow_if_wide": "of the tokens on which the wide one fires, the share on which the narrow one does",
        "wide_if_narrow": "of the tokens on which the narrow one fires, the share on which the wide one does",
        "any_if_narrow": "of the tokens on which the narrow one fires, the share on which any descendant does",
    },
    "closest": {"cosine": "cosine of the two decoder directions"},
    "consistency": {"rank": "place among the matched pairs, the best first", "cosine": "cosine of the two directions"},
    "compare": {
        "difference": "value_a - value_b",
        "low": "lower end of the difference's 95 % interval",
        "high": "upper end of the difference's 95 % interval",
        "verdict": "indistinguishable where the interval holds 0",
    },
    "ablation": {
        "feature": _FEATURE,
        "firings": "tokens on which it fires",
        "windows": "windows in which it was removed",
        "delta_ce": "what removing it costs, nats a token",
        "low": "lower end of the 95 % interval of delta_ce",
        "high": "upper end of the 95 % interval of delta_ce",
        "kl": "KL(with || without it), nats a token",
    },
    "groundtruth": {
        "true_feature": "the planted feature nearest to it",
        "cosine": "cosine of the two directions",
        "f1": "harmonic mean of precision and recall",
        "precision": "of its firings, the share where the planted feature fires",
        "recall": "of the planted feature's firings, the share where it fires",
        "magnitude_ratio": "recovered magnitude / true magnitude",
        "fires": "share of rows on which it fires",
        "truth_fires": "share of rows on which the planted feature fires",
    },
    "sites": {"feature": _FEATURE, "fires": "share of tokens it is active on"},
    "latent_scaling": {
        "feature": _FEATURE,
        "fires": _DENSITY,
        "share": "the tuned model's share of the decoder norm",
        "low": "lower end of the 95 % interval of nu_error",
        "high": "upper end of the 95 % interval of nu_error",
    },
}


def column_meaning(study: str, column: str) -> str:
    """Return what a column of a study's tables means; empty where nothing is known of it."""
    return _MEANINGS.get(study, {}).get(column, "")
