"""What each study's section is called, and what it shows, in a line or two."""

from sae_lightning.reports.evaluation_sections import ABOUT as EVALUATED

#: (heading, what it shows), in the order of the page. Studies that are not named here come after, under their names.
SECTIONS = {
    "density": ("Density", "On which share of the tokens each feature is active, and how many are active on a token."),
    "neighbourhood": (
        "Map",
        "Each point is a feature; near each other lie features whose decoder directions are alike (UMAP). Distances "
        "between far groups, and the axes, mean nothing. Click on a point to open the feature.",
    ),
    "neighbourhoods": (
        "Map of all",
        "Decoder directions of all SAEs placed together (UMAP), each SAE's taken from their mean. Click on a point to "
        "open the feature.",
    ),
    "clusters": ("Clusters", "Groups of features that fire together, and texts in which they do."),
    "cooccurrence": ("Firing together", "Pairs of features that are active on the same tokens most."),
    "similarity": ("Similar directions", "Pairs of features whose decoder directions are nearest."),
    "logit_effect": (
        "Effect on next tokens",
        "What a feature's decoder direction adds to the logits on the direct way through the final norm.",
    ),
    "neuron_correlation": (
        "Features and neurons",
        "Of each feature, the neuron of all earlier MLPs that goes with it most (Pearson's r over tokens).",
    ),
    "completeness": ("Completeness", "Of a list of concepts, those for which there is a feature on the last token."),
    "splitting": ("Splitting", "Features of a wide SAE that descend from one of a narrow SAE."),
    "contexts": ("Examples", "Where single features fire, with the text around it; every feature's page has its own."),
    "colouring": ("Coloured texts", "Whole texts, token by token; the page of texts shows them coloured."),
    "compare": (
        "Differences",
        "Of each figure that two SAEs share, the difference on the same windows with its 95 % interval; shaded where "
        "the interval does not hold 0.",
    ),
    "consistency": ("Consistency", "Features of two SAEs matched one to one by the cosine of decoder directions."),
    **{name: (name.replace("_", " ").capitalize(), text) for name, text in EVALUATED.items()},
}


def heading(study: str) -> str:
    """Return a section's heading."""
    return SECTIONS.get(study, (study.replace("_", " ").capitalize(), ""))[0]


def about(study: str) -> str:
    """Return what a section shows; empty where nothing is known of its study."""
    return SECTIONS.get(study, ("", ""))[1]


def in_order(studies: list[str]) -> list[str]:
    """Return studies in the order of the page."""
    known = [name for name in SECTIONS if name in studies]
    return known + sorted(name for name in studies if name not in SECTIONS)
