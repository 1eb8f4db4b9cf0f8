from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest

from core.clock import SteppedClock
from core.domain import Symbol
from tests.execution.broker_contract import BrokerContract
from tests.fakes.fake_broker import FakeBroker
from tests.fakes.trading import AAA, NOW


class TestFakeBroker(BrokerContract):
    @pytest.fixture
    def clock(self) -> SteppedClock:
        return SteppedClock(NOW)

    @pytest.fixture
    def broker(self, clock: SteppedClock) -> FakeBroker:
        return FakeBroker(clock)

    @pytest.fixture
    def symbol(self) -> Symbol:
        return AAA

    @pytest.fixture
    def settle_fill(self, clock: SteppedClock) -> Callable[[], None]:
        return lambda: clock.sleep(1)

    @pytest.fixture
    def splitting(self, broker: FakeBroker) -> tuple[Symbol, Callable[[], Fraction]]:
        def happen() -> Fraction:
            broker.split(AAA, Fraction(3, 2))
            return Fraction(3, 2)

        return AAA, happen
