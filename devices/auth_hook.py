"""auth-hook@1.0: signs the requests of people who log in, with keys that this node keeps for them.

It is a request hook. A secret provider turns the caller's credentials into a secret; the key bound
to that secret (secret@1.0) signs the request, and the signed request is what the node resolves.
Credentials and secrets stay in the private part of messages.
"""

from __future__ import annotations

from hyperpy import device, key, path
from hyperpy.commitments import committers
from hyperpy.errors import KeyNotFound, ParameterError
from hyperpy.message import Message, Value, as_text
from hyperpy.sdk import Context, Result

_NEVER_SIGNED = frozenset({"secret", "cookie", "set-cookie", "path", "method", "authorization", "!", "commitments"})
_DEFAULT_KEYS = ("authorization", "!")
_DEFAULT_PROVIDER = Message({"device": "http-auth@1.0"})


@device("auth-hook@1.0")
class AuthHook:
    """Signs unsigned requests that carry credentials.

    ``when`` says which: ``keys`` (``always``, or names of which one must be present) and ``committers``
    (``always``, ``uncommitted``, or addresses); both must hold. ``secret-provider`` answers ``generate`` and
    perhaps ``finalize``, under the names in ``generate-path`` and ``finalize-path``.
    """

    @key(deterministic=False)
    def request(self, base: Message, request: Message, ctx: Context) -> Message | Result:
        """Return the hook's request with the signed sequence as ``body``; what the provider refuses is refused.

        The private value ``signed-here``, a set that no client can make, names the signatures: they are over no path,
        and yet are for this one request.
        """
        source = request.get("request")
        if not isinstance(source, Message):
            raise ParameterError("auth-hook: the hook has no 'request'", name="request")
        if not _applies(base.get("when"), source):
            return request
        provider = base.get("secret-provider", _DEFAULT_PROVIDER)
        if not isinstance(provider, Message):
            raise ParameterError("auth-hook: 'secret-provider' must be a message", name="secret-provider")
        call = base.text("generate-path", "generate")
        answer = ctx.step(provider, Message.make({"path": call.encode()}, private=source.private))
        if answer.status != "ok":
            return answer
        source = _with_secret(source, answer.value)
        signed = _signed(provider, source, ctx)
        mine = frozenset(signed.commitments).difference(source.commitments)
        heard = signed.with_private(**{**source.private, "signed-here": mine})
        made = request | {"request": heard, "body": tuple(path.parse(_public(signed)))}
        return self._finalized(base, provider, made, ctx)

    def _finalized(self, base: Message, provider: Message, made: Message, ctx: Context) -> Message:
        try:
            outcome = ctx.resolve(provider, made | {"path": base.text("finalize-path", "finalize")})
        except KeyNotFound:
            return made
        if not isinstance(outcome, Message) or not isinstance(outcome.get("body"), tuple):
            return made
        lines = outcome.private.get("set-cookie")
        return (made | {"body": outcome["body"]}).with_private(**{"set-cookie": lines})


def _applies(when: Value | None, source: Message) -> bool:
    rules = when if isinstance(when, Message) else Message()
    wanted = rules.get("keys", tuple(name.encode() for name in _DEFAULT_KEYS))
    if wanted != b"always":
        names = [as_text(name) for name in (wanted if isinstance(wanted, tuple) else (wanted,))]
        if not any(name in source or name in source.private for name in names):
            return False
    who = rules.get("committers", b"uncommitted")
    signers = committers(source)
    if who == b"always":
        return True
    if who == b"uncommitted":
        return not signers
    allowed = {as_text(name) for name in (who if isinstance(who, tuple) else (who,))}
    return not allowed.isdisjoint(signers)


def _with_secret(source: Message, answer: Value) -> Message:
    """Return the request with the secret the provider gave: in its private part, or as its whole answer."""
    if isinstance(answer, Message):
        found = answer.private.get("secret", answer.get("secret"))
        carried = {name: item for name, item in answer.private.items() if name in ("cookie", "set-cookie")}
    else:
        found, carried = answer, {}
    if not isinstance(found, bytes) or not found:
        raise ParameterError("auth-hook: the secret provider gave no secret", name="secret-provider")
    return source.with_private(**{**carried, "secret": found})


def _signed(provider: Message, source: Message, ctx: Context) -> Message:
    """Return the request signed with the key bound to its secret; the key is made at first use."""
    hosted = Message({"device": "secret@1.0"})
    names = tuple(name.encode("utf-8", "surrogateescape") for name in source if name not in _NEVER_SIGNED)
    if not names:
        return source
    call = Message.make(
        {"path": b"commit", "target": b"message", "message": _public(source), "committed": names},
        private={"secret": source.private["secret"]},
    )
    try:
        made = ctx.resolve(hosted, call)
    except KeyNotFound:
        control = Message({"device": provider.get("device", b"")})
        binding: dict[str, Value] = {"path": b"generate", "access-control": control}
        ctx.resolve(hosted, Message.make(binding, private={"secret": source.private["secret"]}))
        made = ctx.resolve(hosted, call)
    if not isinstance(made, Message):
        raise ParameterError("auth-hook: secret@1.0 did not answer with a message")
    return made


def _public(message: Message) -> Message:
    return Message.make(dict(message.raw_items()), message.commitments)
