"""Questions to the world that may never be answered: asked side by side, and waited for only so long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Answer = TypeVar("Answer")


def answers_within(
    seconds: float, questions: Mapping[str, Callable[[], Answer]]
) -> dict[str, Answer | BaseException | None]:
    """What each question returns or raises, by name in the order given; None where `seconds` were not enough.

    A question that hangs is left behind in its thread, which ends with the process.
    """
    answers: dict[str, Answer | BaseException | None] = dict.fromkeys(questions)

    def ask(name: str, question: Callable[[], Answer]) -> None:
        try:
            answers[name] = question()
        except Exception as error:
            answers[name] = error

    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in questions.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(answers)
