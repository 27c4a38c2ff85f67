"""What can go wrong between a caller and the store of explanations.

    StoreError
    ├── ExplanationNotFoundError   no such explanation, or it has expired
    ├── WrongStateError            the explanation's state does not allow that
    ├── QueueFullError             too many explanations wait
    ├── RequestIdReusedError       the same request id came before with another spec
    ├── PageTokenError             not a page token of this list
    ├── AttemptEndedError          an attempt's write came after the attempt had ended
    └── DataCorruptError           what is stored of an explanation cannot be read

While Redis cannot be reached or refuses, `redis.exceptions.RedisError` passes through.
"""

from __future__ import annotations


class StoreError(Exception):
    """Root of the tree. Its message is written for the caller."""


class ExplanationNotFoundError(StoreError):
    """No explanation has this `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no explanation {name!r}; it may have expired or been deleted")
        self.name = name


class WrongStateError(StoreError):
    """The explanation's `state` ("SUCCEEDED", "FAILED") does not allow what was asked."""

    def __init__(self, name: str, state: str) -> None:
        super().__init__(f"{name} has {state} already")
        self.name = name
        self.state = state


class QueueFullError(StoreError):
    """As many explanations wait as may (`limit`)."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} explanations are waiting already; try again later")
        self.limit = limit


class RequestIdReusedError(StoreError):
    """`request_id` belongs to the explanation `name`, whose spec or model is another."""

    def __init__(self, request_id: str, name: str) -> None:
        super().__init__(f"request id {request_id!r} was used before, with another spec, for {name}")
        self.request_id = request_id
        self.name = name


class PageTokenError(StoreError):
    """The page token was not given out by this list, or for another state."""

    def __init__(self) -> None:
        super().__init__("the page token is not one that this list gave out for the same state; start without a token")


class AttemptEndedError(StoreError):
    """The attempt is over: `state` is the explanation's state now, empty where it is deleted.

    RUNNING means that a newer attempt has begun.
    """

    def __init__(self, explanation_id: str, state: str) -> None:
        super().__init__(f"explanation {explanation_id} is {state or 'deleted'}; this attempt at it is over")
        self.state = state


class DataCorruptError(StoreError):
    """What is stored of the explanation `name` cannot be read; `part` is the field, or "record", "job" or "events"."""

    def __init__(self, name: str, part: str) -> None:
        super().__init__(
            f"what is stored of {name} cannot be read ({part}): something else than Gloss has written to its Redis, or "
            "a disk has failed; delete the explanation and create it again"
        )
        self.name = name
        self.part = part
