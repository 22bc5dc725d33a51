"""Keeps the same LoRA adapters loaded in every part: shards first, then gateways, then clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from cluster.control.events import EventLog
from cluster.control.members import MemberBook
from cluster.control.part_client import PartFailedError
from cluster.control.ports import PartCalls
from galerne.adapters import MAX_ADAPTERS, AdapterInfo, check_plain_name
from galerne.errors import ConfigError, InvalidRequestError, NotServingError, OverloadedError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_TURN_S = 1.0
LOAD_TIMEOUT_S = 240.0
_MEND_TIMEOUT_S = 60.0  # of a turn of the loop, which is watched; a part goes on loading
_SPARE_S = 20.0  # beyond a deadline
_THEIR_FAULT = ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND")


class AdapterKeeper:
    """Belongs to one event loop."""

    def __init__(
        self,
        wanted_parts: Callable[[], Iterable[str]],
        members: MemberBook,
        calls: PartCalls,
        events: EventLog,
        model_name: str,
    ) -> None:
        """``wanted_parts``: all that run or start, by name."""
        self._wanted_parts = wanted_parts
        self._members = members
        self._calls = calls
        self._events = events
        self._model_name = model_name
        self._loaded: dict[str, AdapterInfo] = {}
        self._leaving: set[str] = set()  # names
        self._answered: dict[tuple[str, int, str], frozenset[str]] = {}  # ids, by process
        self._lock = asyncio.Lock()
        self.turns = 0  # of the loop, for those who watch it

    @property
    def loaded(self) -> tuple[AdapterInfo, ...]:
        """What every part shall have, and loads before it serves."""
        return tuple(self._loaded.values())

    @property
    def listed(self) -> tuple[AdapterInfo, ...]:
        """What clients may ask for: those that all gateways have."""
        gateways = [part for part in self._live() if _is_gateway(part)]
        return tuple(
            info
            for info in self._loaded.values()
            if info.name not in self._leaving
            and all(info.id in self._ids_at(part) for part in gateways)
        )

    def _ids_at(self, part: str) -> frozenset[str]:
        """What a part has said that it has, in a heartbeat or when it was asked to load."""
        told = self._members.members[part].told
        return told.adapters | self._answered.get(told.process, frozenset())

    async def _load_at(
        self, part: str, wanted: AdapterInfo, timeout_s: float = LOAD_TIMEOUT_S
    ) -> AdapterInfo:
        process = self._process_of(part, "LoadAdapter")
        info = await self._calls.load_adapter(part, wanted, timeout_s)
        self._answered[process] = self._answered.get(process, frozenset()) | {info.id}
        return info

    async def _unload_at(self, part: str, adapter_id: str, deadline_s: float) -> None:
        process = self._process_of(part, "UnloadAdapter")
        self._answered[process] = self._answered.get(process, frozenset()) - {adapter_id}
        await self._calls.unload_adapter(part, adapter_id, deadline_s, deadline_s + _SPARE_S)

    def _process_of(self, part: str, method: str) -> tuple[str, int, str]:
        member = self._members.members.get(part)
        if member is None:  # since it was looked up
            raise PartFailedError(part, method, "it has ended")
        return member.told.process

    def restore(self, loaded: Iterable[AdapterInfo]) -> None:
        """After a restart of the controller."""
        self._loaded = {info.name: info for info in loaded}

    async def load(self, name: str, directory: str) -> AdapterInfo:
        """Load an adapter into every part. May be repeated.

        Raises:
            InvalidRequestError: A name cannot be used, or the adapter; says which file and why.
            OverloadedError: As many as go are loaded.
            NotServingError: A part did not answer.
        """
        directory = directory or name
        check_plain_name("lora_name", name)
        check_plain_name("lora_path", directory)
        if name == self._model_name:
            raise InvalidRequestError("lora_name", f"{name!r} is the model's own name")
        async with self._lock:
            known = self._loaded.get(name)
            if known is not None and known.directory != directory:
                problem = f"{name!r} is loaded already, from {known.directory!r}: unload it first"
                raise InvalidRequestError("lora_name", problem)
            if known is None and len(self._loaded) >= MAX_ADAPTERS:
                raise OverloadedError("list of adapters", MAX_ADAPTERS, 0.0)
            info = await self._load_everywhere(known or AdapterInfo(name=name, directory=directory))
            self._loaded[name] = info
            self._events.add("adapter_loaded", name, f"id={info.id} rank={info.rank}")
            return info

    async def unload(self, name: str, deadline_s: float) -> AdapterInfo:
        """Unload an adapter when no request uses it.

        Raises:
            InvalidRequestError: There is none of that name.
            ConfigError: Requests still use it at the deadline; it stays.
            NotServingError: A part did not answer; it stays.
        """
        async with self._lock:
            info = self._loaded.get(name)
            if info is None:
                raise InvalidRequestError("lora_name", f"no adapter {name[:150]!r} is loaded")
            self._leaving.add(name)
            try:
                if not any(i.id == info.id for n, i in self._loaded.items() if n != name):
                    await self._unload_everywhere(info, deadline_s)
                del self._loaded[name]
            finally:
                self._leaving.discard(name)
            self._events.add("adapter_unloaded", name, f"id={info.id}")
            return info

    async def run(self) -> None:
        """Load again wherever one is missing, until cancelled."""
        while True:
            self.turns += 1
            if self._loaded and not self._lock.locked():
                async with self._lock:
                    await self._mend()
            await asyncio.sleep(_TURN_S)

    async def _mend(self) -> None:
        missing = [
            (part, info)
            for part in sorted(self._live(), key=_is_gateway)  # shards first
            for info in self._loaded.values()
            if info.id not in self._ids_at(part)
        ]
        loading = [self._load_at(part, info, _MEND_TIMEOUT_S) for part, info in missing]
        results = await asyncio.gather(*loading, return_exceptions=True)
        for (part, info), result in zip(missing, results, strict=True):
            if isinstance(result, PartFailedError):
                logger.warning("adapter_missing part=%s reason=%s", part, result)
            elif isinstance(result, BaseException):
                raise result
            else:
                self._events.add("adapter_loaded_again", part, f"name={info.name}")

    async def _load_everywhere(self, wanted: AdapterInfo) -> AdapterInfo:
        shards = [p for p in self._live() if not _is_gateway(p)]
        gateways = [p for p in self._live() if _is_gateway(p)]
        if not gateways:
            raise NotServingError("no gateway lives")
        info = wanted
        try:
            for parts in (shards, gateways):  # a gateway's frames find it at the shards
                for part, told in await self._each(parts, lambda part: self._load_at(part, wanted)):
                    check_same(part, info, told)
                    info = told
        except BaseException:
            await self._unload_unknown()
            raise
        return info

    async def _unload_unknown(self) -> None:
        """What parts have that they need not; where this fails, it costs memory only."""
        known = {info.id for info in self._loaded.values()}
        calls = [
            self._unload_at(part, adapter_id, 0.0)
            for part in self._live()
            for adapter_id in self._ids_at(part) - known
        ]
        await asyncio.gather(*calls, return_exceptions=True)

    async def _unload_everywhere(self, info: AdapterInfo, deadline_s: float) -> None:
        """Gateways first; where one cannot, the loop gives it back to the others."""
        for parts in (
            [p for p in self._live() if _is_gateway(p)],
            [p for p in self._live() if not _is_gateway(p)],
        ):
            await self._each(parts, lambda part: self._unload_at(part, info.id, deadline_s))

    async def _each(
        self, parts: Sequence[str], call: Callable[[str], Awaitable[_T]]
    ) -> list[tuple[str, _T]]:
        """Call all at once. Raises the first error, as the caller should hear it."""
        results: list[_T | BaseException] = await asyncio.gather(
            *map(call, parts), return_exceptions=True
        )
        told: list[tuple[str, _T]] = []
        for part, result in zip(parts, results, strict=True):
            if isinstance(result, PartFailedError):
                raise _told(result) from result
            if isinstance(result, BaseException):
                raise result
            told.append((part, result))
        return told

    def _live(self) -> list[str]:
        return [part for part in self._wanted_parts() if self._members.is_live(part)]


def check_same(part: str, known: AdapterInfo, told: AdapterInfo) -> None:
    """Raises InvalidRequestError if a part has loaded other files than the one before it."""
    if known.id not in ("", told.id):
        raise InvalidRequestError("lora_path", f"{part} has other files there")


def _told(error: PartFailedError) -> Exception:
    code, _, details = error.reason.partition(": ")
    if code not in _THEIR_FAULT:
        return NotServingError(str(error))
    if error.what == "UnloadAdapter":
        return ConfigError("lora_name", "in use", details)
    return InvalidRequestError("lora_path", f"{error.part}: {details}")


def _is_gateway(part: str) -> bool:
    return part.startswith("gateway-")
