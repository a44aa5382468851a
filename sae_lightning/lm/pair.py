"""Two language models that read the same tokens, side by side: a base model and one that was tuned from it."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_lightning.core import UserError
from sae_lightning.lm.frozen_lm import FrozenLM
from sae_lightning.lm.run import Edit, Ran
from sae_lightning.lm.sites import MEMBERS, member_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PairedLM(FrozenLM):
    """A ``FrozenLM`` of two: its sites are ``base/SITE`` and ``tuned/SITE``, its activations lie on one device.

    Everything that concerns tokens (tokenizer, special ids, separators) is the base model's; the context and the
    vocabulary are the smaller ones, and rows have the wider of the two dtypes. ``run`` runs the one model whose sites
    are named: what is written in one does nothing to the other, so writing in both is two runs. ``identity`` has one
    SHA-256 over both models, and the tuned model's own identity beside it.

    Raises UserError for models whose tokenizers differ: the same text would be other tokens to each.
    """

    def __init__(self, base: FrozenLM, tuned: FrozenLM) -> None:
        self.base, self.tuned = base, tuned
        self._members: dict[str, FrozenLM] = dict(zip(MEMBERS, (base, tuned), strict=True))
        ours, theirs = base.identity()["tokenizer_hash"], tuned.identity()["tokenizer_hash"]
        if ours != theirs:
            raise UserError(
                f"sites.tuned.name={tuned.name!r}: has another tokenizer than {base.name!r} ({str(theirs)[:8]}, not "
                f"{str(ours)[:8]}); two models are compared on the same tokens: choose one that was tuned from it"
            )
        self.name = f"{base.name} and {tuned.name}"
        self.revision = base.revision
        self.device = base.device
        self.dtype = torch.promote_types(base.dtype, tuned.dtype)
        self.d_model = base.d_model
        self.n_layers = min(base.n_layers, tuned.n_layers)
        self.n_ctx = min(base.n_ctx, tuned.n_ctx)
        self.vocab_size = min(base.vocab_size, tuned.vocab_size)
        self.separator_id, self.bos_id = base.separator_id, base.bos_id
        self.special_ids = tuple(sorted({*base.special_ids, *tuned.special_ids}))
        self.windows_read = 0

    @property
    def bridge(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise NotImplementedError("two models have two bridges: base.bridge and tuned.bridge")

    @property
    def model(self) -> nn.Module:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Both models' modules."""
        return nn.ModuleList([self.base.model, self.tuned.model])

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.tokenizer

    @property
    def loaded(self) -> bool:
        """Whether weights of either are in memory."""
        return any(getattr(lm, "loaded", True) for lm in self._members.values())

    def identity(self) -> dict[str, Any]:
        base, tuned = self.base.identity(), self.tuned.identity()
        both = hashlib.sha256(f"{base['sha256']} {tuned['sha256']}".encode()).hexdigest()
        return {**base, "sha256": both, "tuned": tuned}

    def n_parameters(self) -> int:
        return self.base.n_parameters() + self.tuned.n_parameters()

    def n_bytes(self) -> int:
        return self.base.n_bytes() + self.tuned.n_bytes()

    def sites(self) -> list[str]:
        return [f"{member}/{site}" for member, lm in self._members.items() for site in lm.sites()]

    def site_width(self, site: str) -> int:
        lm, rest = self._of(site)
        try:
            return lm.site_width(rest)
        except UserError as error:
            raise UserError(f"site {site!r}, in {lm.name}: {error}") from error

    def activations(self, tokens: Int[Tensor, "b p"], sites: Sequence[str]) -> dict[str, Float[Tensor, "b p d"]]:
        self._check_windows(tokens)
        read: dict[str, Tensor] = {}
        for member, lm in self._members.items():
            if own := [rest for rest in (self._own(member, site) for site in sites) if rest is not None]:
                for site, value in lm.activations(tokens, own).items():
                    read[f"{member}/{site}"] = value.to(device=self.device, dtype=self.dtype)
        self.windows_read += len(tokens)
        return {site: read[site] for site in sites}

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
        """Run the model whose sites are named, the base model where none is; see ``FrozenLM.run``."""
        edits = {} if edits is None else edits
        named = [*edits, *sites, *([start[0]] if start else [])]
        members = {member_of(site)[0] for site in named} or {"base"}
        for site in named:
            self._of(site)
        if len(members) > 1:
            raise ValueError(f"a run of {self.name} at {named}: one run is of one model; run each by itself")
        member = str(members.pop())
        ran = self._members[member].run(
            tokens,
            {member_of(site)[1]: edit for site, edit in edits.items()},
            keep=keep,
            start=None if start is None else (member_of(start[0])[1], start[1]),
            sites=[member_of(site)[1] for site in sites],
            grad=grad,
        )
        self.windows_read += len(tokens)
        seen = {f"{member}/{site}": value.to(device=self.device, dtype=self.dtype) for site, value in ran.seen.items()}
        return Ran(ran.logits.to(self.device), seen)

    def _own(self, member: str, site: str) -> str | None:
        return member_of(site)[1] if self._of(site)[0] is self._members[member] else None

    def _of(self, site: str) -> tuple[FrozenLM, str]:
        member, rest = member_of(site)
        if member is None:
            raise UserError(
                f"site {site!r}: there are two language models; name base/{rest} for {self.base.name}, or "
                f"tuned/{rest} for {self.tuned.name}"
            )
        return self._members[member], rest

    def __repr__(self) -> str:
        return f"PairedLM({self.base!r}, {self.tuned!r})"
