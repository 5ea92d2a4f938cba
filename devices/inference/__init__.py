"""inference@1.0: a language model that answers in OpenAI's forms, the same bits on every machine (docs/inference.md).

``asked`` reads requests, ``choices`` turns tokens into text, ``forms`` writes OpenAI's documents, ``mail`` those of
processes, ``device`` has the keys; ``listing`` is the device that answers for single models.
"""

from .device import Inference
from .listing import InferenceModels

__all__ = ["Inference", "InferenceModels"]
