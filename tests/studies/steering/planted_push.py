"""A small language model and an SAE with one feature that is known to push one token."""

from sae_lightning.activations import MaskPolicy
from sae_lightning.core import Sites, torch_generator
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.store import Reader
from tests.lm.models import with_twin

SITE = "blocks.2.hook_resid_post"
#: The feature writes what makes this token likely: a sign, so that each is a word however the text goes on.
FEATURE, TOKEN = 3, "!"
#: Norm of an activation at the site, about.
NORM = 4.0


def planted_reader() -> Reader:
    """Return a reader of a random model whose feature ``FEATURE`` is the direction of a token's logit."""
    lm, twin = with_twin("llama")
    head = twin.get_submodule("lm_head").get_parameter("weight")
    direction = head[ord(TOKEN)] / head[ord(TOKEN)].norm()
    sae = StandardSAE(32, 8)
    g = torch_generator(0, "tests", "planted_push")
    for name, weight in sae.named_parameters():
        weight.data.normal_(generator=g).mul_(0.3 if weight.ndim > 1 else 0.0)
        if name in ("W_dec", "W_enc"):
            (weight.data if name == "W_dec" else weight.data.T)[FEATURE] = direction
    mask = MaskPolicy(special_ids=lm.special_ids, norm_multiple=None)
    return Reader(lm, sae.eval(), Sites((SITE,), (SITE,)), mask, 64, 4)
