"""A toy model for everything; SmolLM2 where it was pulled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyperpy.inference import gguf, toy, weights
from hyperpy.inference.library import Library
from hyperpy.inference.model import Model, config_of
from hyperpy.inference.tokenizer import Tokenizer, fields_of


@pytest.fixture(scope="session")
def toy_model() -> Model:
    parsed = gguf.parse(memoryview(toy.gguf_bytes()))
    found = {name: weights.convert(tensor) for name, tensor in parsed.tensors.items()}
    return Model(config_of(parsed.metadata), found, weights.model_id(found))


@pytest.fixture(scope="session")
def toy_tokenizer() -> Tokenizer:
    return Tokenizer(fields_of(toy.metadata()))


@pytest.fixture(scope="session")
def smollm2() -> tuple[Model, Tokenizer]:
    folder = os.environ.get("HYPERPY_MODELS")
    if not folder or "smollm2-135m" not in [entry.name for entry in Library(Path(folder)).entries()]:
        pytest.skip("SmolLM2 is not here: set HYPERPY_MODELS and run `hyperpy models pull smollm2-135m`")
    return Library(Path(folder)).load("smollm2-135m")
