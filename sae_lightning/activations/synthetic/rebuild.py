"""From the parameters that an export carries back to the model it was trained on."""

from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from sae_lightning.activations.synthetic.model import SyntheticModel
from sae_lightning.activations.synthetic.planted import PlantedModel
from sae_lightning.activations.synthetic.toy import ToySuperposition
from sae_lightning.activations.synthetic.two_models import TwoModels
from sae_lightning.core import UserError

KINDS: dict[str, type[PlantedModel]] = {model.kind: model for model in (SyntheticModel, ToySuperposition, TwoModels)}


def planted_model(parameters: Mapping[str, Any]) -> PlantedModel:
    """Return the model that ``PlantedModel.parameters`` described: a kind of ``KINDS`` and its arguments.

    Raises UserError for an unknown kind, unknown or missing arguments, and values that the model refuses.
    """
    kind = parameters.get("kind")
    if kind not in KINDS:
        raise UserError(f"synthetic data: kind={kind!r} is unknown; it must be one of {', '.join(KINDS)}")
    hints = get_type_hints(KINDS[kind].__init__, include_extras=True)
    given: dict[str, Any] = {}
    for name, value in parameters.items():
        if name == "kind":
            continue
        if name not in hints or name == "return":
            raise UserError(f"synthetic data: {name} is no parameter of {kind}; take it out")
        try:
            given[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            found = error.errors()[0]
            where = ".".join(str(part) for part in (name, *found["loc"]))
            raise UserError(f"synthetic data: {where}={found['input']!r}: {found['msg']}; correct it") from None
    try:
        return KINDS[kind](**given)
    except TypeError as error:
        raise UserError(f"synthetic data: {error}; give every parameter of {kind}") from None
