"""What every metric's name means, and which way is better: said once, for tables, pages and comparisons."""

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", "one"]


@dataclass(frozen=True)
class Meaning:
    """text: one short line. better: ``lower``, ``higher``, ``one`` (the nearer to 1), None where neither way is."""

    text: str
    better: Better | None = None


MEANING = {
    # reconstruction
    "fvu": Meaning("fraction of variance unexplained: sum SSE / sum ||x - mean||²", "lower"),
    "explained_variance": Meaning("1 - fvu", "higher"),
    "ev_per_token": Meaning("mean over tokens of 1 - SSE / ||x - mean||², not a variance ratio", "higher"),
    "ev_residual_variance": Meaning("1 - variance of the error / variance; blind to a constant error", "higher"),
    "mse": Meaning("squared error, mean over tokens and dimensions", "lower"),
    "cosine": Meaning("mean cosine of x and its reconstruction", "higher"),
    "l2_ratio": Meaning("mean ||x_hat|| / ||x|| (below 1: shrinkage)", "one"),
    # sparsity
    "l0": Meaning("active features a token"),
    "l1": Meaning("sum of activations a token"),
    "dead": Meaning("share of features without firing, by training tokens", "lower"),
    "never_fired": Meaning("share of features that fire on none of these tokens", "lower"),
    "dense_share": Meaning("share of features active on more than 10 % of tokens"),
    # downstream
    "ce_clean": Meaning("the model's cross-entropy, nats a token"),
    "ce_spliced": Meaning("the same with the reconstruction in place", "lower"),
    "ce_zero": Meaning("the same with zeros in place"),
    "ce_mean": Meaning("the same with the mean activation in place"),
    "delta_ce": Meaning("ce_spliced - ce_clean", "lower"),
    "kl": Meaning("KL(clean || spliced), nats a token", "lower"),
    "kl_zero": Meaning("KL(clean || zeros in place), nats a token"),
    "kl_mean": Meaning("KL(clean || mean activation in place), nats a token"),
    "ce_recovered_zero": Meaning("of the loss that zeroing the site costs", "higher"),
    "ce_recovered_mean": Meaning("of the loss that the mean activation costs", "higher"),
    "kl_recovered_zero": Meaning("of the KL that zeroing the site costs", "higher"),
    "kl_recovered_mean": Meaning("of the KL that the mean activation costs", "higher"),
    # groundtruth
    "mmcs": Meaning("mean over true directions of the largest cosine with a latent's", "higher"),
    "mcc": Meaning("mean |cosine| of true directions and latents matched one to one", "higher"),
    "uniqueness": Meaning("share of latents that are the only one nearest to their true feature", "higher"),
    "f1": Meaning("firing of matched latents against the truth: harmonic mean of precision and recall", "higher"),
    "precision": Meaning("of a matched latent's firings, the share where its true feature fires", "higher"),
    "recall": Meaning("of a true feature's firings, the share where its matched latent fires", "higher"),
    "shrinkage": Meaning("recovered magnitude / true magnitude of matched features", "one"),
}


def known(name: str) -> Meaning | None:
    """Return what is known of a metric. ``NAME/of_what`` is a kind of ``NAME``."""
    return MEANING.get(name) or MEANING.get(name.partition("/")[0])


def meaning(name: str) -> str:
    """Return a metric's meaning in one line, empty where there is none."""
    found = known(name)
    return "" if found is None else found.text


def better(name: str) -> Better | None:
    """Return which way a metric is better, None where neither way is or it is not known."""
    found = known(name)
    return None if found is None else found.better
