"""wasm-64@1.0: runs WebAssembly images (devices/07-wasm-lua)."""

from .device import Wasm64

__all__ = ["Wasm64"]
