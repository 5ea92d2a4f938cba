"""calculator-plugin@1.0: the tutorial device as a package of its own."""

from hyperpy import device, key


@device("calculator-plugin@1.0")
class Calculator:
    @key
    def add(self, a: int, b: int) -> int:
        return a + b

    @key
    def multiply(self, a: int, b: int) -> int:
        return a * b
