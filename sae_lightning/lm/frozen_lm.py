"""A language model with hooks that never learns."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_lightning.core import UserError, nearest
from sae_lightning.lm import crossentropy, sizes
from sae_lightning.lm.bridge import bridge_or_none, native_bridge
from sae_lightning.lm.devices import DeviceMap, check_device, check_device_map
from sae_lightning.lm.embedded import smollm2_folder
from sae_lightning.lm.hub import load_pretrained
from sae_lightning.lm.modules import module_sites
from sae_lightning.lm.outline import checked, outline
from sae_lightning.lm.plain import plain_twin, with_sdpa
from sae_lightning.lm.reader import Reader
from sae_lightning.lm.run import Edit, Ran, Request
from sae_lightning.lm.sites import unknown_site
from sae_lightning.lm.standing import run_standing, standing
from sae_lightning.lm.tiny import tiny_config
from sae_lightning.lm.weights import folder_sha256, tensors_sha256
from sae_lightning.tokens.tokenizer import byte_tokenizer, tokenizer_hash
from sae_lightning.tokens.wheels import SMOLLM2

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DType = Literal["bfloat16", "float32", "float16"]
# Length of the window that finds out a site's shape: a prime, so that no number of heads is mistaken for positions.
_PROBE_LENGTH = 11
# Context of a model that nothing bounds (a recurrent one).
_NO_BOUND = 1 << 20


class FrozenLM:
    """A causal language model in eval mode without gradients of its own, read and edited at named sites.

    Not an ``nn.Module``, on purpose: as a child of a LightningModule it would enter checkpoints and follow ``train()``.
    A site is a hook name of transformer_lens (``blocks.9.hook_resid_post``) or a module path: ``model.layers.9.mlp`` is
    what that module gives out, ``model.layers.9.mlp:in`` what it takes in. Both work through ``TransformerBridge``,
    with eager attention, and past it, where the plain model on the same weights gives the same (``lm.reader``). A model
    that transformer_lens does not know has no bridge: module paths, and the hook names that its modules tell
    (``lm.outline``). Windows are right-padded: causal models need no attention mask.

    Shapes: tokens [b, p]; activations [b, p, d] in the LM's dtype, per-head sites flattened to d = heads * d_head.
    Hooks that somebody puts on ``bridge`` belong to it alone: ``activations`` reads past them.
    ``windows_read`` counts the windows that went through it: a run on kept activations must read none.
    Raises UserError for what a user can get wrong: unknown sites, windows beyond the context, tokenizers that do not
    fit, names that are neither folder nor model.
    """

    def __init__(
        self,
        bridge: Any,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        name: str,
        revision: str | None = None,
        folder: Path | None = None,
        twin: nn.Module | None = None,
    ) -> None:
        """bridge: None for a model without one. twin: the plain model, see ``lm.plain``; then all there is."""
        model = twin if bridge is None else bridge.original_model
        assert model is not None
        self.bridge = bridge
        self.model: nn.Module = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self._folder = folder
        self.windows_read = 0
        # A bridge's hooks are the model's: two passes at once would see each other's.
        self._one_at_a_time = threading.RLock()
        self._widths: dict[str, int] = {}
        self.device: torch.device = sizes.entry_device(model)
        self.dtype: torch.dtype = next(model.parameters()).dtype
        config = bridge.cfg if bridge is not None else None
        self.d_model: int = int(config.d_model) if config else sizes.width(model)
        self.n_layers: int = int(config.n_layers) if config else sizes.depth(model)
        self.n_ctx: int = sizes.context_length(model, int(config.n_ctx) if config else _NO_BOUND)
        self.vocab_size: int = sizes.vocabulary_rows(model, int(config.d_vocab) if config else 0)
        self._names = {} if bridge is not None else checked(model, outline(model, self.n_layers), self._probe_tokens())
        self._reader = Reader(bridge, twin, name=name, vocab_size=self.vocab_size, names=self._names)
        self._check_tokenizer()
        end, eos, bos = tokenizer.get_vocab().get("<|endoftext|>"), tokenizer.eos_token_id, tokenizer.bos_token_id
        self.separator_id: int | None = next((i for i in (end, eos, bos) if isinstance(i, int)), None)
        self.bos_id: int | None = next((i for i in (end, bos) if isinstance(i, int)), None)
        special = {*tokenizer.all_special_ids, self.separator_id, self.bos_id}
        special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.special_ids: tuple[int, ...] = tuple(sorted(i for i in special if i is not None))

    @classmethod
    def load(
        cls,
        name: str = "smollm2",
        *,
        device: str = "cpu",
        dtype: DType = "bfloat16",
        revision: str | None = None,
        seed: int = 0,
        device_map: DeviceMap | None = None,
        **tiny: int,
    ) -> "FrozenLM":
        """Return the embedded SmolLM2 (``smollm2``), a random one for tests (``tiny``), a local folder or a hub model.

        seed and the keywords d_model, n_layers, n_heads, n_ctx concern ``tiny`` only. A hub model that is cached is
        loaded without network; revision is then the commit it is at, unless given. device_map: spreads the model over
        several devices (``lm.devices``); it is then run without a bridge.
        """
        if dtype not in get_args(DType):
            raise UserError(
                f"lm.dtype={dtype!r}: must be one of {', '.join(get_args(DType))}{nearest(dtype, get_args(DType))}"
            )
        torch_dtype = getattr(torch, dtype)
        check_device(device)
        if name == "tiny":
            if device_map is not None:
                raise UserError(f"lm.device_map={device_map!r}: lm=tiny lies on one device; leave it out")
            bridge = native_bridge(tiny_config(seed, tiny), device, torch_dtype)
            return cls(bridge, byte_tokenizer(), name=name)
        if tiny:
            raise UserError(f"lm.{next(iter(tiny))}: only lm=tiny has this option; leave it out for lm={name}")
        if name == "smollm2":
            source, revision = str(smollm2_folder()), SMOLLM2.version
        else:
            source = name
        where, spread = (device, False) if device_map is None else (check_device_map(device_map), True)
        model, tokenizer, folder, commit = load_pretrained(source, revision, torch_dtype, where, spread=spread)
        bridge = twin = None
        if device_map is None:
            twin = plain_twin(model, name)  # before the bridge wraps its modules
            bridge = bridge_or_none(model, name, alone=twin is None)
        if bridge is None and twin is None:
            twin = with_sdpa(model)
        return cls(bridge, tokenizer, name=name, revision=commit, folder=folder, twin=twin)

    def identity(self) -> dict[str, Any]:
        """Return what tells this LM from every other: name, revision, SHA-256 of the weights, hash of the tokenizer."""
        if self._folder is not None:
            weights = folder_sha256(self._folder)
        else:
            weights = tensors_sha256(self.model.named_parameters())
        return {
            "name": self.name,
            "revision": self.revision,
            "sha256": weights,
            "tokenizer_hash": tokenizer_hash(self.tokenizer),
        }

    def n_parameters(self) -> int:
        """Return the number of weights, tied ones once."""
        return sum(weight.numel() for weight in self.model.parameters())

    def n_bytes(self) -> int:
        """Return the memory the weights take."""
        return sum(weight.numel() * weight.element_size() for weight in self.model.parameters())

    def sites(self) -> list[str]:
        """Return every hook name of the model, aliases included, and the sites of its modules."""
        ways = self._reader
        hooks = self._names if self.bridge is None else self.bridge.hook_dict
        modules = (ways.plain or ways.bridged).paths  # pyright: ignore[reportOptionalMemberAccess] - one is there
        return [*hooks, *module_sites(modules)]

    def check_site(self, site: str) -> None:
        """Raise UserError unless ``site`` is a hook that fires with one vector per token."""
        self.site_width(site)

    def site_width(self, site: str) -> int:
        """Return the number of elements per token at ``site`` (found by running a short window once)."""
        if site not in self._widths:
            known = self.sites()
            if site not in known:
                raise unknown_site(site, known, self.n_layers)
            self._widths[site] = self._probe(site)
        return self._widths[site]

    def activations(self, tokens: Int[Tensor, "b p"], sites: Sequence[str]) -> dict[str, Float[Tensor, "b p d"]]:
        """Return the activation at each site, by exactly the names asked for; runs no further than the last of them.

        Where edits stand (``lm.standing``), as in a run with them.
        """
        for site in sites:
            self.check_site(site)
        self._check_windows(tokens)
        if standing(self):
            return dict(self.run(tokens, sites=sites).seen)
        with self._one_at_a_time:
            self.windows_read += len(tokens)
            read = self._reader.read(tokens.to(self.device), sites)
            return {site: value.flatten(2).to(self.device) for site, value in read.items()}

    def run(
        self,
        tokens: Int[Tensor, "b p"],
        edits: Mapping[str, Edit] | None = None,
        *,
        keep: Bool[Tensor, "b p"] | None = None,
        start: tuple[str, Tensor] | None = None,
        sites: Sequence[str] = (),
        grad: bool = False,
    ) -> Ran:
        """Run with the activation of some sites replaced; return next-token logits and what other sites then show.

        edits: site -> replacement [b, p, d], or a function of the clean activation [b, p, d].
        keep:  where False, the clean activation stays (masked tokens).
        start: (residual site, its clean activation): blocks up to there are skipped, which changes no bit.
        sites: whose activations the run returns, after edits.
        grad:  let gradients pass from logits and activations to the replacements.
        Edits that stand (``lm.standing``) are made after these; runs then begin at the tokens.
        Runs that write the same sites, start at the same one and return the same ones take the same way: what is
        written is all that tells them apart.
        """
        edits = {} if edits is None else edits
        for site in (*edits, *sites):
            self.check_site(site)
        self._check_windows(tokens)
        if start is not None:
            start = start[0], start[1].to(device=self.device, dtype=next(self.model.parameters()).dtype)
            if not self._reader.starts(start[0]):
                raise ValueError(f"start={start[0]!r}: only a residual site blocks.L.hook_resid_post can be started at")
        request = Request(edits, keep, start, tuple(dict.fromkeys(sites)), grad)
        with self._one_at_a_time:
            ran = run_standing(standing(self), tokens.to(self.device), request, self._reader.run)
            self.windows_read += len(tokens)
        return Ran(ran.logits, {site: value.to(self.device) for site, value in ran.seen.items()})

    def logits(
        self,
        tokens: Int[Tensor, "b p"],
        edits: Mapping[str, Edit] | None = None,
        *,
        keep: Bool[Tensor, "b p"] | None = None,
        start: tuple[str, Tensor] | None = None,
        grad: bool = False,
    ) -> Float[Tensor, "b p vocab"]:
        """Return the next-token logits of a ``run``."""
        return self.run(tokens, edits, keep=keep, start=start, grad=grad).logits

    @staticmethod
    def loss(
        logits: Float[Tensor, "b p vocab"], tokens: Int[Tensor, "b p"], mask: Bool[Tensor, "b p"] | None = None
    ) -> Float[Tensor, "b p_minus_1"]:
        """Return the cross-entropy of each next token in nats; see ``lm.crossentropy.loss``."""
        return crossentropy.loss(logits, tokens, mask)

    def _check_windows(self, tokens: Tensor) -> None:
        if tokens.ndim != 2 or tokens.shape[1] > self.n_ctx:
            raise UserError(
                f"window of shape {tuple(tokens.shape)}: the language model reads [windows, positions] of at most "
                f"{self.n_ctx} positions; lower data.context_length"
            )

    def _probe(self, site: str) -> int:
        try:
            read = self._reader.look(self._probe_tokens(), site)
        except ValueError as error:  # the bridge's refusal of hooks behind a flag
            raise UserError(
                f"site {site!r}: the bridge does not run this hook ({error}); choose another site"
            ) from error
        except TypeError as error:  # what hooks on modules find
            raise UserError(f"site {site!r}: {error}, not one vector per token; choose another site") from error
        if site not in read:
            raise UserError(f"site {site!r}: it exists but never runs in this model; choose another site")
        value = read[site]
        if value.ndim not in (3, 4) or value.shape[:2] != (1, _PROBE_LENGTH) or not value.is_floating_point():
            raise UserError(
                f"site {site!r}: its shape for 1 window of {_PROBE_LENGTH} tokens is {tuple(value.shape)}, but an SAE "
                "needs one vector per token; choose another site, for example blocks.0.hook_resid_post"
            )
        return value[0, 0].numel()

    def _probe_tokens(self) -> Tensor:
        length = min(_PROBE_LENGTH, self.n_ctx)
        return (torch.arange(length)[None] % self.vocab_size).to(self.device)

    def _check_tokenizer(self) -> None:
        largest = max(self.tokenizer.get_vocab().values(), default=-1)
        if largest >= self.vocab_size:
            raise UserError(
                f"lm.name={self.name!r}: its tokenizer gives ids up to {largest}, but the embedding has "
                f"{self.vocab_size} rows; use the tokenizer the model was trained with"
            )

    def __repr__(self) -> str:
        return f"FrozenLM({self.name!r}, d_model={self.d_model}, n_layers={self.n_layers}, dtype={self.dtype})"
