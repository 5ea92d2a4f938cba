"""wasm-64@1.0: runs WebAssembly images."""

from .device import Wasm64

__all__ = ["Wasm64"]
