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
    # sites: NAME/SITE; of two models, parts are the models
    "norm_shared": Meaning("share of features of which no site holds nearly all of the decoder norm"),
    "norm_even": Meaning("share of features whose decoder norm the sites hold in nearly equal parts"),
    "norm_only": Meaning("share of features whose decoder norm this one holds nearly alone"),
    "norm_l0": Meaning("such features active a token, kinds by decoder norm"),
    "norm_matched": Meaning("share of features that match a planted one", "higher"),
    "norm_right": Meaning("of features matched with a planted one, the share whose kind the norms tell", "higher"),
    "norm_invented": Meaning("of those planted in both models, the share that the norms give to one", "lower"),
    # latent_scaling
    "scaled_shared": Meaning("share of features found in both models by latent scaling"),
    "scaled_only": Meaning("share of features found in this model alone by latent scaling"),
    "scaled_overturned": Meaning("of features exclusive by norm, the share found in both models"),
    "scaled_right": Meaning("of features matched with a planted one, the share whose kind scaling tells", "higher"),
    "scaled_invented": Meaning("of those planted in both models, the share that scaling gives to one", "lower"),
    # sparsity
    "l0": Meaning("active features a token"),
    "l1": Meaning("sum of activations a token"),
    "dead": Meaning("share of features that never fire on the tokens counted", "lower"),
    "dense_share": Meaning("share of features active on a share of tokens above dense_above (sparsity: 10 %)"),
    # density, similarity
    "rare": Meaning("share of features that fire, but on a share of the tokens below rare_below"),
    "nearest_cosine": Meaning("cosine of a feature's decoder direction with the nearest other, mean over features"),
    "nearest_dot": Meaning("largest product of a decoder row with another, mean over features"),
    "nearest_euclidean": Meaning("distance of a decoder row from the nearest other, mean over features"),
    "twin_share": Meaning("share of features with another whose decoder direction has a cosine above 0.9", "lower"),
    # neuron_correlation
    "neuron_correlation_mean": Meaning("largest |correlation| of a feature with any neuron below, mean over features"),
    "neuron_correlation_share_0.3": Meaning("share of features with a neuron of |correlation| above 0.3"),
    "neuron_correlation_share_0.5": Meaning("share of features with a neuron of |correlation| above 0.5"),
    "neuron_correlation_shuffled": Meaning("the same mean for features whose tokens are shuffled: what chance gives"),
    # interpretation: SCORE/GROUP, means over units
    "explained": Meaning("share of units with an explanation", "higher"),
    "detection_balanced_accuracy": Meaning("stretches told active or silent by the explanation; chance 0.5", "higher"),
    "detection_f1": Meaning("F1 of that; 0.67 for a judge that always says yes", "higher"),
    "detection_auc": Meaning("share of pairs that the judge's probabilities put in order; chance 0.5", "higher"),
    "detection_usable": Meaning("share of the judge's answers that could be used", "higher"),
    "fuzzing_balanced_accuracy": Meaning("marks told right or moved by the explanation; chance 0.5", "higher"),
    "fuzzing_f1": Meaning("F1 of that; 0.67 for a judge that always says yes", "higher"),
    "fuzzing_auc": Meaning("share of pairs that the judge's probabilities put in order; chance 0.5", "higher"),
    "fuzzing_usable": Meaning("share of the judge's answers that could be used", "higher"),
    "rubric_grade": Meaning("grade of how exactly the explanation says what is marked, 0 to 3", "higher"),
    "rubric_expected_grade": Meaning("the same grade under the judge's probabilities", "higher"),
    "rubric_usable": Meaning("share of the judge's answers that could be used", "higher"),
    "n2g_precision": Meaning("of tokens on which the patterns say the unit fires, the share where it does", "higher"),
    "n2g_recall": Meaning("of tokens on which the unit fires, the share that the patterns say", "higher"),
    "n2g_f1": Meaning("harmonic mean of the patterns' precision and recall", "higher"),
    "n2g_correlation": Meaning("correlation of foretold and real activation over tokens", "higher"),
    # splitting: NARROW -> WIDE
    "splitting_split": Meaning("share of the narrow SAE's features that several of the wide one share out"),
    "splitting_kept": Meaning("share of the narrow SAE's features that one of the wide one covers"),
    "splitting_partial": Meaning("share of the narrow SAE's features of which the wide one covers a part"),
    "splitting_absent": Meaning("share of the narrow SAE's features without a descendant in the wide one"),
    # completeness
    "covered": Meaning("share of concepts with a feature of their own on the last token", "higher"),
    "covered_prompts": Meaning("share of concepts with a feature that fires for them and for few others", "higher"),
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
    # probe: NAME/TASK, NAME/TASK/kK; each class against the rest, either side with half of the weight
    "probe_loss": Meaning("cross-entropy of the best single feature's probe, nats (chance 0.693)", "lower"),
    "probe_accuracy": Meaning("accuracy of the best single feature's probe (chance 0.5)", "higher"),
    "sparse_probe_loss": Meaning("cross-entropy of a probe of k features, nats", "lower"),
    "sparse_probe_accuracy": Meaning("accuracy of a probe of k features", "higher"),
    "random_probe_loss": Meaning("floor: cross-entropy of a probe of k random features, nats"),
    "random_probe_accuracy": Meaning("floor: accuracy of a probe of k random features"),
    "dense_probe_loss": Meaning("ceiling: cross-entropy of a probe of the activations, nats"),
    "dense_probe_accuracy": Meaning("ceiling: accuracy of a probe of the activations"),
    # ablation
    "ablation_delta_ce": Meaning("what removing one feature costs, mean over features, nats a token"),
    "ablation_kl": Meaning("KL(with || without one feature), mean over features, nats a token"),
    "ablation_share_nonzero": Meaning("share of features whose removal changes the loss beyond noise"),
    "ablation_sparsity": Meaning("spread of a feature's effect over logits: (L1/L2)² / number of logits", "lower"),
    "ablation_sparsity_random": Meaning("the same of a random direction of the same length"),
    # consistency: NAME/A ~ B, of the features of A and B matched one to one
    "consistency_cosine": Meaning("mean cosine of matched decoder directions, 1 for a permuted copy"),
    "consistency_share_0.7": Meaning("share of matched features with a cosine above 0.7"),
    "consistency_share_0.9": Meaning("share of matched features with a cosine above 0.9"),
    "consistency_mmcs": Meaning("mean over the first's features of the largest cosine with any of the second's"),
    # dose_response: NAME/FEATURE/VARIANT, of texts written under steering
    "steered_activation": Meaning("activation of the feature in the text read without steering, share of its maximum"),
    "steered_fires": Meaning("share of the text's tokens on which the feature fires without steering"),
    "steered_words": Meaning("share of samples with a word of the concept"),
    "steered_word_rate": Meaning("words of the concept over all words of the text"),
    "steered_perplexity": Meaning("exp(cross-entropy of the tokens written under the unsteered model)", "lower"),
    "steered_nats": Meaning("cross-entropy of the tokens written under the unsteered model, nats each", "lower"),
    "steered_repetition": Meaning("share of a text's 3-grams that stood in it before", "lower"),
    "steered_distinct": Meaning("distinct tokens over all tokens of a text"),
    # groundtruth
    "mmcs": Meaning("mean over true directions of the largest cosine with a latent's", "higher"),
    "mcc": Meaning("mean |cosine| of true directions and latents matched one to one", "higher"),
    "uniqueness": Meaning("different true features that latents are nearest to, over the number of latents", "higher"),
    "f1": Meaning("firing of matched latents against the truth: harmonic mean of precision and recall", "higher"),
    "precision": Meaning("of a matched latent's firings, the share where its true feature fires", "higher"),
    "recall": Meaning("of a true feature's firings, the share where its matched latent fires", "higher"),
    "true_l0": Meaning("true features that fire a row"),
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
