"""The author's API: what binds, what converts, what is refused when the class is made."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest

from hyperpy import Context, Message, Result, device, key
from hyperpy.errors import ConfigError, ParameterError
from hyperpy.message import NOT_FOUND, Atom, Link, Value
from hyperpy.sdk import default, handler, hook_of, spec_of, wire_name
from hyperpy.testing import assert_deterministic, node


@device("types@1.0")
class Types:
    """Takes everything.

    And says so.
    """

    @key
    def integer(self, x: int) -> int:
        return x

    @key
    def number(self, x: float) -> float:
        return x

    @key
    def flag(self, x: bool) -> bool:
        return x

    @key
    def text(self, x: str) -> str:
        return x

    @key
    def binary(self, x: bytes) -> bytes:
        return x

    @key
    def message(self, x: Message) -> Message:
        return x

    @key
    def many(self, x: list[Any]) -> list[Any]:
        return x

    @key
    def fixed(self, x: tuple[Value, ...]) -> tuple[Value, ...]:
        return x

    @key
    def link(self, x: Link) -> str:
        return x.id

    @key
    def choice(self, x: Literal["red", "blue", 3]) -> str | int:
        return x

    @key
    def anything(self, x: Any) -> Any:
        return x

    @key
    def maybe(self, x: int | None = None) -> int:
        return -1 if x is None else x

    @key
    def two_words(self, first_word: str, second: int = 2) -> str:
        """Join two words."""
        return f"{first_word} {second}"

    @key(deterministic=False)
    def everything(self, base: Message, request: Message, ctx: Context, key: str, x: int = 1) -> bool:
        return isinstance(base, Message) and isinstance(request, Message) and key == "everything" and ctx.now() > 0


SPEC = spec_of(Types)


def bound(name: str, item: Any) -> Any:
    """Return what a key gets for a parameter ``x``."""
    return SPEC.keys[name].parameters[0].bind(name, Message(), Message({"x": item}))


ID = "A" * 43


@pytest.mark.parametrize(
    ("name", "given", "got"),
    [
        ("integer", 3, 3),
        ("integer", "3", 3),
        ("integer", "-12", -12),
        ("integer", "9" * 4300, int("9" * 4300)),
        ("number", 3, 3.0),
        ("number", "2.5", 2.5),
        ("number", 0.1, 0.1),
        ("flag", True, True),
        ("flag", "False", False),
        ("flag", "true", True),
        ("text", "a", "a"),
        ("text", 3, "3"),
        ("text", True, "true"),
        ("text", Atom("blue"), "blue"),
        ("text", b"\xff", "\udcff"),
        ("binary", "a", b"a"),
        ("message", {"a": "b"}, Message({"a": "b"})),
        ("message", [1, 2], Message({"1": 1, "2": 2})),
        ("many", [1, 2], [1, 2]),
        ("many", {"2": "b", "1": "a", "10": "c", "x": "d"}, [b"a", b"b", b"c"]),
        ("fixed", [1, 2], (1, 2)),
        ("link", ID, Link(ID)),
        ("choice", "red", "red"),
        ("choice", 3, 3),
        ("choice", "3", 3),
        ("anything", [1], (1,)),
        ("maybe", "5", 5),
    ],
)
def test_what_converts(name: str, given: Any, got: Any) -> None:
    made = bound(name, given)
    assert made == got
    assert type(made) is type(got)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("integer", "three", "must be integer, not 'three'"),
        ("integer", 3.0, "must be integer, not '3.0'"),
        ("integer", True, "must be integer"),
        ("integer", "9" * 4301, "must be integer"),
        ("integer", {"a": "b"}, "must be integer, not a message"),
        ("integer", [1], "must be integer, not a list"),
        ("number", "x", "must be float"),
        ("number", True, "must be float"),
        ("flag", "yes", "must be true or false, not 'yes'"),
        ("flag", 1, "must be true or false"),
        ("text", {"a": "b"}, "must be text, not a message"),
        ("binary", 3, "must be bytes"),
        ("message", "a", "must be message, not 'a'"),
        ("many", "a", "must be list"),
        ("link", b"\xff", "must be ID"),
        ("link", 3, "must be ID"),
        ("choice", "green", "must be one of red, blue, 3, not 'green'"),
        ("choice", [1], "must be one of"),
        ("integer", "x" * 500, "..."),
    ],
)
def test_what_does_not(name: str, given: Any, said: str) -> None:
    with pytest.raises(ParameterError) as caught:
        bound(name, given)
    assert said in caught.value.message
    assert caught.value.message.startswith(f"{name}: parameter 'x' must be ")
    assert caught.value.name == "x"
    assert len(caught.value.message) < 200


def test_floats_that_are_none() -> None:
    assert math.isinf(bound("number", "inf"))
    assert math.isnan(bound("number", "nan"))
    with node(Types) as n:
        assert n.http("GET", "/~types@1.0/number&x=nan").status < 600


def test_where_a_parameter_comes_from() -> None:
    parameter = SPEC.keys["integer"].parameters[0]
    assert parameter.bind("k", Message({"x": 1}), Message({"x": 2})) == 2
    assert parameter.bind("k", Message({"x": 1}), Message()) == 1
    with pytest.raises(ParameterError, match=r"parameter 'x' \(integer\) is missing") as caught:
        parameter.bind("k", Message(), Message())
    assert "k&x=VALUE" in str(caught.value.hint)


def test_defaults_and_wire_names() -> None:
    with node(Types) as n:
        assert n.get("/~types@1.0/two-words&first-word=a")["body"] == b"a 2"
        assert n.get("/~types@1.0&second=9/two_words&first-word=a")["body"] == b"a 9"
        assert n.get("/~types@1.0/maybe")["body"] == -1
        assert n.get("/~types@1.0/everything")["body"] is True
        assert n.get("/~types@1.0/integer&x=y")["status"] == 400
        assert n.get("/~types@1.0/integer")["status"] == 400


def test_devices_stay_plain_python() -> None:
    assert Types().two_words("a") == "a 2"
    assert wire_name("Two_Words") == "two-words"


def test_info_describes() -> None:
    with node(Types) as n:
        info = n.node.resolve("/~types@1.0/info")
    assert isinstance(info, Message)
    assert info["name"] == b"types@1.0"
    assert info.text("doc").startswith("Takes everything.")
    keys = info["keys"]
    assert isinstance(keys, Message)
    words = keys["two-words"]
    assert isinstance(words, Message)
    assert dict(words.raw_items()) == {
        "doc": b"Join two words.",
        "deterministic": True,
        "parameters": Message({"first-word": "text", "second": "integer, optional"}),
    }
    everything = keys["everything"]
    assert isinstance(everything, Message)
    assert everything["deterministic"] is False
    assert "info" in keys


def test_info_can_be_ones_own() -> None:
    @device("own-info@1.0")
    class Own:
        @key
        def info(self) -> str:
            return "mine"

    with node(Own) as n:
        assert n.get("/~own-info@1.0/info")["body"] == b"mine"


@pytest.mark.parametrize("name", ["plain", "@1.0", ""])
def test_names_are_words_with_versions(name: str) -> None:
    with pytest.raises(ConfigError, match="must look like"):
        device(name)(type("D", (), {}))


class Odd:
    """No type the binder knows."""


def test_unknown_types_fail_when_the_class_is_made() -> None:
    with pytest.raises(ConfigError, match="is no type the binder knows") as caught:

        @device("odd@1.0")
        class Broken:
            @key
            def x(self, thing: Odd) -> int:
                return 1

    assert "x(thing)" in caught.value.message
    for annotation in (set, dict[str, int], int | str, "list[Odd] | dict"):

        def function(self: Any, thing: Any) -> int:
            return 1

        function.__annotations__["thing"] = annotation
        if annotation == "list[Odd] | dict":
            continue
        with pytest.raises(ConfigError):
            device("odd@1.0")(type("Broken", (), {"x": key(function)}))


def test_stars_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be named"):

        @device("stars@1.0")
        class Stars:
            @key
            def x(self, *args: int) -> int:
                return 1

    with pytest.raises(ConfigError, match="must be named"):

        @device("stars@1.0")
        class More:
            @key
            def x(self, **args: int) -> int:
                return 1


def test_marks_stay_on_inherited_keys() -> None:
    class Base:
        @key
        def shared(self) -> str:
            return "shared"

        @key
        def changed(self) -> str:
            return "base"

    @device("child@1.0")
    class Child(Base):
        @key
        def changed(self) -> str:
            return "child"

    with node(Child) as n:
        assert n.get("/~child@1.0/shared")["body"] == b"shared"
        assert n.get("/~child@1.0/changed")["body"] == b"child"


def test_only_marked_methods_are_keys() -> None:
    @device("closed@1.0")
    class Closed:
        secret = "class attribute"

        def helper(self) -> str:
            return "not for callers"

        @key
        def open(self) -> str:
            return self.helper()

    with node(Closed) as n:
        assert n.get("/~closed@1.0/open")["body"] == b"not for callers"
        for name in ("helper", "secret", "__init__", "__class__", "__dict__", "start", "stop"):
            assert n.get(f"/~closed@1.0/{name}")["status"] == 404, name


def test_keys_called_like_hooks_are_keys() -> None:
    @device("tape@1.0")
    class Tape:
        @key
        def start(self, at: int = 0) -> int:
            return at

        @key
        def stop(self) -> str:
            return "stopped"

    with node(Tape) as n:
        assert n.get("/~tape@1.0/start&at=3")["body"] == 3
        assert n.get("/~tape@1.0/stop")["body"] == b"stopped"
    assert hook_of(Tape(), "stop") is None
    assert hook_of(object(), "stop") is None


def test_handlers_and_defaults_take_the_key() -> None:
    @device("both@1.0")
    class Both:
        @handler(deterministic=False)
        def every(self, key: str, x: int = 0) -> str:
            return f"{key} {x}"

    spec = spec_of(Both)
    assert spec.handler is not None
    assert not spec.handler.deterministic
    assert default(lambda self: 1).__hyperpy_key__["role"] == "default"  # type: ignore[attr-defined]
    with node(Both) as n:
        assert n.get("/~both@1.0/anything&x=2")["body"] == b"anything 2"


def test_what_comes_back_becomes_a_value() -> None:
    @device("back@1.0")
    class Back:
        @key
        def text(self) -> str:
            return "t"

        @key
        def mapping(self) -> dict[str, Any]:
            return {"a": [1, "x"], "b": {"c": None.__class__.__name__}}

        @key
        def absent(self) -> Result:
            return Result("not_found", NOT_FOUND)

        @key
        def view(self) -> memoryview:
            return memoryview(b"seen")

    with node(Back) as n:
        assert n.get("/~back@1.0/text")["body"] == b"t"
        assert n.get("/~back@1.0/mapping/a/2")["body"] == b"x"
        assert n.get("/~back@1.0/absent")["status"] == 404
        assert n.get("/~back@1.0/view")["body"] == b"seen"


def test_assert_deterministic_finds_what_is_not() -> None:
    @device("count@1.0")
    class Count:
        seen = 0

        @key
        def same(self, a: int = 1) -> int:
            return a

        @key
        def more(self) -> int:
            self.seen += 1
            return self.seen

    assert_deterministic(Count, "/~count@1.0/same")
    with pytest.raises(AssertionError, match="not deterministic"):
        assert_deterministic(Count, "/~count@1.0/more")
