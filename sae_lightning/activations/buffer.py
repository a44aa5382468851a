"""A shuffle buffer whose every state is a value: refilling makes a new one, so there is no half-refilled one."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lightning.core import ActivationBatch, UserError, torch_generator


@dataclass(frozen=True)
class Snapshot:
    """The buffer between two batches. Row ``order[i]`` is the i-th to be handed out; those before ``taken`` are gone.

    x, y: rows in the LM's dtype on its device (y is x for an SAE). position: how far the stream that fills the buffer
    has been read. handed: rows handed out since the beginning. generator: state of the shuffle's CPU generator.
    """

    x: Float[Tensor, "rows d_in"]
    y: Float[Tensor, "rows d_out"]
    token_index: Int[Tensor, "rows"]
    order: Int[Tensor, "rows"]
    taken: int
    position: int
    handed: int
    generator: Tensor

    @property
    def remaining(self) -> int:
        """Rows that are still to be handed out."""
        return len(self.order) - self.taken


class ShuffleBuffer:
    """Fixed-size batches from rows in random order.

    When no more than ``mix * capacity`` rows are left (or fewer than a batch), they are topped up to ``capacity`` and
    all are shuffled: each batch then mixes rows of many windows. The last harvest may overshoot ``capacity`` by up to
    ``slack`` rows; they stay. Memory at a refill: twice the capacity.

    budget: rows that will ever be wanted. Near it the buffer is only filled as far as needed and then runs empty,
    instead of harvesting what nobody reads.

    ``refill`` and ``draw`` are functions from a ``Snapshot`` to a new one and change nothing: an interrupt inside
    leaves the caller with the snapshot it had.
    """

    def __init__(
        self,
        capacity: int,
        batch_size: int,
        *,
        mix: float = 0.5,
        seed: int,
        slack: int = 0,
        budget: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"data.batch_size={batch_size}: must be at least 1")
        if capacity < batch_size:
            raise UserError(
                f"data.buffer_tokens={capacity}: must be at least data.batch_size={batch_size}; raise the one or lower "
                "the other"
            )
        if not 0 <= mix < 1:
            raise UserError(f"data.mix={mix}: must be at least 0 and below 1 (the share of the buffer that stays)")
        self.capacity = capacity
        self.batch_size = batch_size
        self.mix = mix
        self.seed = seed
        self.slack = slack
        self.budget = budget

    def empty(self, d_in: int, d_out: int, *, same: bool = True) -> Snapshot:
        """Return the state before the first row."""
        x = torch.empty(0, d_in)
        none = torch.empty(0, dtype=torch.int64)
        generator = torch_generator(self.seed, "activations", "buffer").get_state()
        y = x if same else torch.empty(0, d_out)
        return Snapshot(x, y, none, none, taken=0, position=0, handed=0, generator=generator)

    def wanted(self, state: Snapshot) -> int:
        """Return the rows a refill aims at."""
        left = None if self.budget is None or state.handed >= self.budget else self.budget - state.handed
        return self.capacity if left is None else min(self.capacity, max(self.batch_size, left))

    def needs_refill(self, state: Snapshot) -> bool:
        """Whether rows have to come in before the next batch goes out."""
        low = state.remaining <= self.mix * self.capacity and state.remaining < self.wanted(state)
        return low or state.remaining < self.batch_size

    def next_refill(self, state: Snapshot) -> int:
        """Return the rows that the refill after this state will bring at least; 0 where the budget asks for none."""
        left, handed = state.remaining, state.handed
        while True:
            if self.budget is not None and handed >= self.budget:
                return 0
            then = replace(state, taken=len(state.order) - left, handed=handed)
            if self.needs_refill(then):
                return self.wanted(then) - left
            left, handed = left - self.batch_size, handed + self.batch_size

    def refill(self, state: Snapshot, parts: Iterable[tuple[ActivationBatch, int]]) -> Snapshot:
        """Return a full, freshly shuffled state. parts: (rows, position of the stream after them), as many as needed.

        An iterator that ends early leaves the buffer less than full.
        """
        wanted = self.wanted(state)
        filled = state.remaining
        position = state.position
        rest = state.order[state.taken :]
        storage: list[Tensor] = []
        old: list[Tensor] = []
        for part, position in parts:  # noqa: B007 - the last one counts
            same = part.y is part.x
            new = [part.x, part.token_index] if same else [part.x, part.token_index, part.y]
            if not storage:
                old = [state.x, state.token_index] if same else [state.x, state.token_index, state.y]
                size = wanted + max(self.slack, len(part))
                storage = [value.new_empty(size, *value.shape[1:]) for value in new]
                for value, before in zip(storage, old, strict=True):
                    if filled:
                        torch.index_select(before, 0, rest, out=value[:filled])
            last = filled + len(part)
            for number, value in enumerate(new):
                if last > len(storage[number]):
                    storage[number] = torch.cat([storage[number], torch.empty_like(value)])
                storage[number][filled:last] = value
            filled = last
            if filled >= wanted:
                break
        if not storage:
            return state
        generator = torch.Generator()
        generator.set_state(state.generator)
        order = torch.randperm(filled, generator=generator).to(storage[0].device)
        x, token_index, *y = (value[:filled] for value in storage)
        return Snapshot(
            x, y[0] if y else x, token_index, order, 0, position, state.handed, generator=generator.get_state()
        )

    def draw(self, state: Snapshot) -> tuple[ActivationBatch, Snapshot]:
        """Return the next batch (float32) and the state after it."""
        rows, after = self.advance(state)
        x = state.x[rows].float()
        y = x if state.y is state.x else state.y[rows].float()
        return ActivationBatch(x=x, y=y, token_index=state.token_index[rows]), after

    def advance(self, state: Snapshot) -> tuple[Int[Tensor, "batch_size"], Snapshot]:
        """Return which rows of the buffer make up the next batch, and the state after it."""
        assert state.remaining >= self.batch_size, "refill first"
        rows = state.order[state.taken : state.taken + self.batch_size]
        after = Snapshot(
            state.x,
            state.y,
            state.token_index,
            state.order,
            state.taken + self.batch_size,
            state.position,
            state.handed + self.batch_size,
            state.generator,
        )
        return rows, after

    def pack(self, state: Snapshot) -> dict[str, Any]:
        """Return tensors and numbers: the rows still to come, in their order, on the CPU."""
        rest = state.order[state.taken :]
        out: dict[str, Any] = {
            "x": state.x[rest].cpu(),
            "token_index": state.token_index[rest].cpu(),
            "position": state.position,
            "handed": state.handed,
            "generator": state.generator.clone(),
        }
        if state.y is not state.x:
            out["y"] = state.y[rest].cpu()
        return out

    def unpack(self, value: dict[str, Any], device: torch.device | str = "cpu") -> Snapshot:
        """Return the state that ``pack`` wrote; the rows lie in the order in which they will be handed out."""
        x = value["x"].to(device)
        return Snapshot(
            x,
            value["y"].to(device) if "y" in value else x,
            value["token_index"].to(device),
            torch.arange(len(x), device=device),
            taken=0,
            position=int(value["position"]),
            handed=int(value["handed"]),
            generator=value["generator"].clone(),
        )
