"""Which of two rescued graphs is taken."""

from pathlib import Path

import pytest

from edgekit.core.report import Rescue
from edgekit.core.sensitivity import Standing
from edgekit.search.rescue import _Tried


def tried(interval=None, *, content=True, reached=True, sqnr_db=30.0):
    standing = Standing(sqnr_db=sqnr_db)
    account = Rescue(
        reached=reached, plain=standing, final=standing, judge_samples=8, slowdown_interval=interval
    )
    return _Tried(graph=Path("graph.onnx"), account=account, content=content)


@pytest.mark.parametrize(
    ("mine", "others", "better"),
    [
        ((0.80, 0.85), (1.00, 1.10), True),  # 0.9 of its time at most, beyond doubt
        ((0.95, 0.98), (1.00, 1.10), False),  # faster, but another run might say otherwise
        ((0.70, 0.95), (1.00, 1.10), False),  # not beyond doubt
        (None, (1.00, 1.10), False),
    ],
)
def test_the_clock_decides_only_what_it_would_decide_again(mine, others, better):
    assert tried(mine).beats(tried(others)) == better
    assert not tried(others).beats(tried(mine))


def test_what_keeps_the_budgets_comes_before_what_is_fast():
    slow, fast = (2.0, 2.1), (0.5, 0.6)
    assert tried(slow).beats(tried(fast, content=False))
    assert tried(slow, content=False).beats(tried(fast, content=False, reached=False))
    broken = {"content": False, "reached": False}
    assert tried(slow, **broken, sqnr_db=20.0).beats(tried(fast, **broken, sqnr_db=10.0))
