"""One prompt in one window, and runs of the language model with something else written at its kept tokens."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.core import TokenBatch, UserError
from sae_lightning.lm.sites import member_of
from sae_lightning.store import Reader
from sae_lightning.studies.passes import Text
from sae_lightning.studies.search.prompts import window_length
from sae_lightning.studies.splice import Splice, windows_at_a_time
from sae_lightning.studies.subject import inference

#: What a search is after: a number of each run, from its logits [k, p, vocab].
Measure = Callable[[Tensor], Tensor]


class SplicedPrompt:
    """A text of n kept tokens under the SAE, and the spliced language model on it.

    base [n, d_out]: what is written where nothing is asked for: with ``keep_error`` the activations as they are, the
    SAE's error kept, else the reconstruction. features: of the kept tokens. position [n]: of each kept token in the
    window; number [n]: in the text. last: position of the text's last token.

    All sites that the SAE writes are written at once, at every kept token. So of several sites a change below reaches
    those above through masked tokens alone: what a crosscoder's feature does is what its rows do, each at its site.
    Raises UserError for a text longer than the language model reads, one of which the mask keeps nothing, and an SAE
    that writes two language models.
    """

    def __init__(self, reader: Reader, token_ids: Int[NDArray, "m"], *, keep_error: bool = True) -> None:
        lm, sites = reader.lm, reader.sites
        if any(member_of(site)[0] is not None for site in sites.write):
            raise UserError("this SAE writes two language models, and a prompt runs in one; search by prompt instead")
        started = reader.start is not None
        if len(token_ids) + started > lm.n_ctx:
            raise UserError(f"prompt: {len(token_ids)} tokens, but the language model reads {lm.n_ctx - started}")
        length = window_length(len(token_ids) + started, lm.n_ctx)
        batch = reader.windows(token_ids, length - started)
        read = lm.activations(batch.tokens, list(dict.fromkeys([*sites.read, *sites.write])))
        x, y = (torch.cat([read[site] for site in names], dim=-1) for names in (sites.read, sites.write))
        keep = reader.keep(batch, x)
        if not keep.any():
            raise UserError("prompt: the SAE's mask leaves none of its tokens; give a longer one")
        self.reader, self.sae, self.lm = reader, reader.sae, lm
        self._text = Text(batch, x, y, keep)
        with inference(self.sae):
            device = self.sae.W_dec.device
            out = self.sae(x[keep].to(device, torch.float32))
        self.features = out.features.sparse()
        self.base: Tensor = y[keep].to(device, torch.float32) if keep_error else out.y_hat
        self.position = keep[0].nonzero()[:, 0]
        self.number = batch.token_index[0].to(keep.device)[self.position]
        self.last = len(token_ids) + started - 1
        self.tokens = batch.tokens[0]
        #: How many runs are made at once, the one with nothing changed among them.
        self.at_once = max(2, windows_at_a_time(lm, length))

    @property
    def n(self) -> int:
        """Number of kept tokens."""
        return len(self.position)

    @property
    def scale(self) -> Float[Tensor, "n 1"]:
        """What the SAE multiplies each row that it writes with: the token's standard deviation under layer norm."""
        std = self.features.input_std
        return self.base.new_ones(self.n, 1) if std is None else std

    def logits(self, rows: Sequence[Float[Tensor, "n d_out"]], *, grad: bool = False) -> Float[Tensor, "k p vocab"]:
        """Return the logits with each of ``rows`` written, all in one batch: a change of nothing changes no bit."""
        times, text = len(rows), self._text
        tokens = TokenBatch(**{name: torch.cat([value] * times) for name, value in vars(text.tokens).items()})
        acts, targets, keep = (torch.cat([value] * times) for value in (text.acts, text.targets, text.keep))
        splice = Splice(self.lm, self.reader.sites.write, Text(tokens, acts, targets, keep))
        return splice.run(torch.cat(list(rows)), grad=grad)
