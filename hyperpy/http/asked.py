"""What a request asks for, as the node that gets it sees it: the parts of its path, and the hashpath they lead to.

A reply names its own hashpath. Whoever relies on one compares it with this: a node, or somebody on the way to it, may
have answered another question.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from hyperpy import commitments, hashpath, path, results
from hyperpy.encoding import is_id, key_text
from hyperpy.errors import HyperpyError
from hyperpy.http.client import Connection, Origin, RequestForm
from hyperpy.http.wire import RawRequest, Rules, read
from hyperpy.message import As, Message, Resolve, Value


class Asked(NamedTuple):
    """A request as the node sees it, and the parts of its path; the first is the root."""

    request: Message
    parts: tuple[Value, ...]


def seen(connection: Connection, origin: Origin, form: RequestForm, rules: Rules | None = None) -> Asked:
    """Return what a node makes of a request that goes out over a connection.

    Args:
        rules: how that node reads requests.
    """
    headers = tuple(connection.headers(origin, form))
    request = read(RawRequest(form.method, form.target, headers, form.body, ""), rules or Rules()).message
    return Asked(request, tuple(results.with_slots(path.parse(request))))


def without(parts: Sequence[Value], names: Collection[str]) -> list[Value]:
    """Return parts without some keys; a part that is signed stays as it is."""
    return [_without(one, names) for one in parts]


def _without(part: Value, names: Collection[str]) -> Value:
    found = part.message if isinstance(part, As) else part
    if not isinstance(found, Message) or found.commitments:
        return part
    bare = found.without(*(name for name in names if name in found))
    return As(part.device, bare) if isinstance(part, As) else bare


def fits(parts: Sequence[Value], told: str) -> bool | None:
    """Say whether a hashpath is that of a path; None where the path alone does not tell.

    That is so for a signed root, of which the path names one ID and the hashpath another, for a root that is taken as
    another device, and for the results of sub-paths. What can be compared of such a path is.

    Raises:
        HyperpyError: there is no such hashpath.
    """
    root, sure = _root(parts[0])
    requests: list[Message] = []
    for part in parts[1:]:
        cast = _plain(part.message) if isinstance(part, As) else None
        if cast is not None and "path" not in cast:
            continue  # the same base as another device
        request = _plain(part)
        if request is None:
            return None
        requests.append(request)
    if root and _behind(root, requests) == told:
        return True
    if sure:
        return False
    if len(requests) == 1 and _behind(told.partition("/")[0], requests) != told:
        return False
    return None


def _behind(root: str, requests: Sequence[Message]) -> str:
    at = root
    for request in requests:
        at = hashpath.extend(Message.make({}).with_private(hashpath=at), request)
    return at


def _root(part: Value) -> tuple[str, bool]:
    """Return the ID of a path's root as a hashpath names it, empty if it is not known; and whether it must be that."""
    device = part.device if isinstance(part, As) else None
    found: Value | None = part.message if isinstance(part, As) else part
    if isinstance(found, Message) and device is None and isinstance(found.raw("path"), bytes):
        found = found.raw("path")
    if isinstance(found, bytes):
        return (key_text(found) if is_id(found) and device is None else ""), False
    if not isinstance(found, Message) or "path" in found or _plain(found) is None or not isinstance(device, str | None):
        return "", False
    try:
        return commitments.hashpath_id(found if device is None else found | {"device": device}), True
    except HyperpyError:
        return "", False


def _plain(part: Value | None) -> Message | None:
    """Return a message without sub-paths; None for anything else."""
    if not isinstance(part, Message) or any(isinstance(one, Resolve | As) for one in part.raw_items().values()):
        return None
    return part
