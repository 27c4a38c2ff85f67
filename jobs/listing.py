"""Lists of explanations, without their results and newest first, a page at a time."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Sequence
from typing import cast

from redis import Redis

from gloss import v1 as pb
from jobs import names, page_token, record
from jobs.errors import DataCorruptError
from jobs.scripts import Scripts

_PAGE_BYTES = 1 << 20
"""The most bytes of a page with more than one explanation."""
_MAX_LOGGED = 1000

_log = logging.getLogger(__name__)


class Listing:
    """Reads pages of lists. Safe for use from several threads."""

    def __init__(self, redis: Redis, scripts: Scripts, max_summary_bytes: int) -> None:
        """Read from `redis`, and leave explanations with longer summaries out."""
        self._redis = redis
        self._scripts = scripts
        self._max_summary_bytes = max_summary_bytes
        self._logged: set[str] = set()

    def page(
        self, indexes: Sequence[str], size: int, token: str, view: pb.ExplanationView
    ) -> tuple[list[pb.Explanation], str]:
        """A page of what several indexes hold, and the token of the next one; see `ExplanationStore.list`.

        Raises:
            PageTokenError: the token is not one of the last index.
        """
        position = last = page_token.parse(token, indexes[-1]) if token else b""
        found: list[pb.Explanation] = []
        total = 0
        while len(found) < size:
            missing = size - len(found)
            keys = self._keys_after(position, indexes, missing + 1)
            summaries = self._summaries(keys[:missing], view)
            for key, explanation in zip(keys, summaries, strict=False):
                if explanation is None:
                    continue
                total += explanation.ByteSize()
                if found and total > _PAGE_BYTES:
                    return found, page_token.make(indexes[-1], last)
                found.append(explanation)
                last = key
            if len(summaries) == len(keys):
                return found, ""
            position = keys[len(summaries) - 1]
        return found, page_token.make(indexes[-1], last)

    def _keys_after(self, position: bytes, indexes: Sequence[str], count: int) -> Sequence[bytes]:
        newest = b"(" + position if position else b"+"
        found = (self._redis.zrevrangebylex(index, newest, b"-", start=0, num=count) for index in indexes)
        merged = heapq.merge(*(cast("Sequence[bytes]", keys) for keys in found), reverse=True)
        return list(itertools.islice(merged, count))

    def _summaries(self, keys: Sequence[bytes], view: pb.ExplanationView) -> Sequence[pb.Explanation | None]:
        """The first of `keys`, as many as make a page; None for what has expired meanwhile or cannot be read."""
        if not keys:
            return []
        fields = record.fields(view, results=False)
        answers = self._scripts("look", self._max_summary_bytes, _PAGE_BYTES, len(fields), *fields, *keys)
        return [self._summary(found, view, fields, answer) for found, answer in zip(keys, answers, strict=False)]

    def _summary(
        self, found: bytes, view: pb.ExplanationView, fields: Sequence[str], answer: bytes | Sequence[bytes | None]
    ) -> pb.Explanation | None:
        key = found.decode(errors="replace")
        if not answer or names.parse_key(key) is None:
            return None
        try:
            return record.read(key, view, fields, answer)
        except DataCorruptError as error:
            if key not in self._logged and len(self._logged) < _MAX_LOGGED:
                self._logged.add(key)
                _log.error("left out of lists: %s", error)
            return None
