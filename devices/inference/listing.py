"""inference-models@1.0: what the list of models leads on to, ``v1/models/ID``."""

from __future__ import annotations

from hyperpy import Message, device
from hyperpy.capabilities import Models
from hyperpy.message import Value
from hyperpy.sdk import default

from . import forms

NAME = "inference-models@1.0"


@device(
    NAME,
    needs=("models",),
    uses=("hyperpy.inference",),
    excludes=("keys", "set", "remove", "get", "id", "commit", "verify", "committers", "committed", "commitments"),
)
class InferenceModels:
    """Answers every key with the model of that name or reference, as OpenAI's ``/v1/models/ID`` does."""

    def start(self, models: Models) -> None:
        """Take the models of this node."""
        self._models = models

    @default(deterministic=False, reads=True)
    def retrieve(self, base: Message, key: str) -> Value:
        """Return one model as JSON; what the list itself holds is its own."""
        found = base.get(key)
        if found is not None:
            return found
        card = self._models.which(key)
        return Message({"status": 200, "content-type": "application/json", "body": forms.text_of(forms.row(card))})
