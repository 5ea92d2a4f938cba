"""calculator@1.0: integer arithmetic. The tutorial device."""

from hyperpy import device, key


@device("calculator@1.0")
class Calculator:
    @key
    def add(self, a: int, b: int) -> int:
        return a + b

    @key
    def multiply(self, a: int, b: int) -> int:
        return a * b
