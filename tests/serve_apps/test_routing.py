"""Sessions of requests, and replicas in the order of a ring with bounded loads."""

import asyncio
import json
from collections import Counter
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client import Counter as Count
from starlette.types import Message

from serve_apps.api.figures import Ledger, exposition, families
from serve_apps.routing import PATIENCE_SECONDS, Sessions, evened


def _session(bodies: list[bytes], *headers: tuple[bytes, bytes], method: str = "POST") -> tuple[bytes | None, bytes]:
    """The session that an application behind the middleware sees of a request whose body comes so, and the body."""
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen["session"] = dict(scope["headers"]).get(b"x-session-id")
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        seen["body"] = body

    waiting = list(bodies)

    async def receive() -> Message:
        part = waiting.pop(0)
        if part == b"late":
            await asyncio.sleep(2 * PATIENCE_SECONDS)
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    async def send(message: Message) -> None: ...

    scope = {"type": "http", "method": method, "headers": list(headers)}
    asyncio.run(Sessions(app)(scope, receive, send))
    return seen["session"], seen["body"]


def test_session_is_the_key_and_the_first_bytes_and_the_body_comes_whole() -> None:
    long = b"{" + b"x" * 5000
    first, body = _session([long, b"a}"])
    assert body == long + b"a}"
    assert _session([long, b"b}"])[0] == first
    assert _session([long[:10], long[10:], b"b}"])[0] == first
    assert _session([b"y" + long, b"b}"])[0] != first
    assert _session([long], (b"authorization", b"Bearer other"))[0] != first


def test_short_prompt_stays_in_its_session_while_it_is_typed_on() -> None:
    def asked(keys: int, first: str = "a") -> bytes | None:
        prompt = first + "".join(f"value_{n} = {n}\n" for n in range(30)) + "x" * keys
        return _session([json.dumps({"prompt": prompt, "max_tokens": 40, "suffix": ""}).encode()])[0]

    assert len({asked(keys) for keys in range(100)}) <= 2
    assert asked(0) != asked(0, "b")


def test_session_that_is_named_is_kept_unless_it_cannot_be_read() -> None:
    assert _session([b"{}"], (b"X-Session-Id", b"mine"))[0] == b"mine"
    assert _session([b"{}"], (b"x_session_id", b"mine"))[0] == b"mine"
    assert _session([b"{}"], (b"x-session-id", b"\xff"))[0] == _session([b"{}"])[0]
    assert _session([b""], method="GET")[0] is None


def test_body_that_does_not_come_holds_nothing_up() -> None:
    session, body = _session([b"{", b"late", b"}"])
    assert session == _session([b"{", b"late"])[0]
    assert body == b"{late}"


def test_replicas_with_too_much_to_do_come_last() -> None:
    loads = Counter(a=10, b=3, c=0)
    assert evened(["a", "b", "c"], loads) == ["b", "c", "a"]  # type: ignore[list-item, arg-type]
    assert evened(["a", "b", "c"], Counter(a=3)) == ["a", "b", "c"]  # type: ignore[list-item, arg-type]
    assert evened(["a"], Counter(a=100)) == ["a"]  # type: ignore[list-item, arg-type]


def test_a_thousand_replicas_that_have_left_are_one_sum() -> None:
    async def told() -> str:
        ledger, registry = Ledger(), CollectorRegistry()
        Count("done", "Done", ("key",), registry=registry).labels("ann").inc(2)
        for number in range(1000):
            await ledger.put(f"r{number}", 0, families(registry))
            await ledger.put(f"r{number}", 1, families(registry), leaving=True)
        assert not ledger._last
        return exposition(await ledger.total("here", 0, families(registry))).decode()

    assert 'done_total{key="ann"} 2002.0' in asyncio.run(told())


def test_counts_of_all_replicas_add_up_and_stay_when_one_has_gone() -> None:
    async def told() -> list[str]:
        ledger = Ledger()
        texts = []
        for replica, (count, waiting, share) in {"a": (3, 2, 0.5), "b": (4, 1, 0.1)}.items():
            registry = CollectorRegistry()
            Count("done", "Done", ("key",), registry=registry).labels("ann").inc(count)
            Gauge("waiting", "Waiting", registry=registry).set(waiting)
            Gauge("use_perc", "Use", registry=registry).set(share)
            texts.append(exposition(await ledger.total(replica, 0, families(registry))).decode())
            last = families(registry)
        await ledger.put("b", 2, last, leaving=True)
        await ledger.put("b", 1, [])  # overtaken on its way
        texts.append(exposition(await ledger.total("a", 1, [])).decode())
        return texts

    alone, both, after = asyncio.run(told())
    assert 'done_total{key="ann"} 3.0' in alone
    assert {'done_total{key="ann"} 7.0', "waiting 3.0", "use_perc 0.3"} <= set(both.splitlines())
    assert 'done_total{key="ann"} 4.0' in after  # what "b" had counted
    assert "waiting" not in after.replace("# HELP waiting Waiting", "").replace("# TYPE waiting gauge", "")
