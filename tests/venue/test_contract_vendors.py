"""The real Polygon and Anthropic clients against the venue."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from core.market.base import DividendEvent, SplitEvent
from core.market.real import BarsMarket

from .conftest import DAYS, Desk, OpenDesk, at, columns

FLAT = (20.0, 21.0, 19.0, 20.0)
HALF = (10.0, 10.5, 9.5, 10.0)


def market() -> BarsMarket:
    bars = {"AAA": columns([FLAT, FLAT, HALF, HALF]), "BBB": columns([FLAT, None, FLAT, FLAT, FLAT, FLAT])}
    return BarsMarket(
        bars, vix=dict.fromkeys(DAYS, 14.5),
        splits=[SplitEvent("AAA", DAYS[2], 2.0), SplitEvent("BBB", DAYS[5], 0.1)],  # type: ignore[arg-type]
        dividends=[DividendEvent("BBB", DAYS[2], 0.25)],  # type: ignore[arg-type]
    )  # fmt: skip


def polygon(desk: Desk) -> Any:
    from polygon import RESTClient

    return RESTClient(api_key="key", base=desk.url, retries=0)


@pytest.fixture
def desk(open_desk: OpenDesk) -> Desk:
    return open_desk(market=market(), start=at(DAYS[3], "16:00"))


def test_aggregates_page_and_are_split_adjusted_unless_asked_not_to(desk: Desk) -> None:
    client = polygon(desk)
    raw = list(client.list_aggs("AAA", 1, "day", "2024-03-01", "2024-03-12", adjusted=False, limit=3))
    assert [bar.close for bar in raw] == [20, 20, 10, 10]
    assert raw[0].timestamp == datetime(2024, 3, 4, 5, tzinfo=UTC).timestamp() * 1000
    adjusted = list(client.list_aggs("AAA", 1, "day", "2024-03-01", "2024-03-12"))
    assert [bar.close for bar in adjusted] == [10, 10, 10, 10]
    assert adjusted[0].volume == 2 * raw[0].volume
    newest = list(client.list_aggs("AAA", 1, "day", "2024-03-01", "2024-03-12", sort="desc", limit=1, adjusted=False))
    assert [bar.close for bar in newest] == [10, 10, 20, 20]


def test_an_unknown_ticker_is_an_empty_success(desk: Desk) -> None:
    body = desk.get("/v2/aggs/ticker/NONE/range/1/day/2024-03-01/2024-03-12", apiKey="key")
    assert (body["status"], body["resultsCount"]) == ("OK", 0) and "results" not in body


def test_next_url_names_a_foreign_host(desk: Desk) -> None:
    body = desk.get("/v2/aggs/ticker/AAA/range/1/day/2024-03-01/2024-03-12", apiKey="key", limit="1")
    assert body["next_url"].startswith("https://api.polygon.io/v2/aggs/") and "key" not in body["next_url"]


def test_grouped_daily_only_after_the_close(desk: Desk) -> None:
    client = polygon(desk)
    rows = client.get_grouped_daily_aggs("2024-03-07", adjusted=False)
    assert {row.ticker for row in rows} == {"AAA", "BBB"}
    assert rows[0].timestamp == at(DAYS[3], "16:00").timestamp() * 1000
    assert [row.ticker for row in client.get_grouped_daily_aggs("2024-03-05", adjusted=False)] == ["AAA"]
    desk.clock.set(at(DAYS[4], "15:59"))
    assert client.get_grouped_daily_aggs("2024-03-08") == []
    assert client.get_grouped_daily_aggs("2024-03-09") == []
    adjusted = client.get_grouped_daily_aggs("2024-03-05")
    assert adjusted[0].close == 10
    assert client.get_previous_close_agg("AAA")[0].close == 10


def test_the_volatility_index_has_no_volume_and_central_stamps(desk: Desk) -> None:
    rows = list(polygon(desk).list_aggs("I:VIX", 1, "day", "2024-03-04", "2024-03-31"))
    assert [row.close for row in rows] == [14.5] * 4 and rows[0].volume is None
    assert rows[0].timestamp == datetime(2024, 3, 4, 6, tzinfo=UTC).timestamp() * 1000
    encoded = desk.get("/v2/aggs/ticker/I%3AVIX/range/1/day/2024-03-04/2024-03-04", apiKey="key")
    assert encoded["resultsCount"] == 1


def test_reference_data_shows_nothing_of_the_future(desk: Desk) -> None:
    client = polygon(desk)
    assert [(s.ticker, s.split_from, s.split_to) for s in client.list_splits()] == [("AAA", 1, 2)]
    assert [d.cash_amount for d in client.list_dividends(ex_dividend_date_gte="2024-03-01")] == [0.25]
    assert [t.ticker for t in client.list_tickers(market="stocks", type="CS", active=True, limit=1)] == ["AAA", "BBB"]
    desk.clock.set(at(DAYS[5], "09:00"))
    assert next((s.ticker, s.split_from, s.split_to) for s in client.list_splits(limit=1)) == ("BBB", 10, 1)
    assert len(list(client.list_splits(limit=1))) == 2
    assert client.get_market_status().market == "closed"


def test_other_time_frames_are_not_on_the_plan(desk: Desk) -> None:
    body = desk.get("/v2/aggs/ticker/AAA/range/1/minute/2024-03-01/2024-03-12", 403, apiKey="key")
    assert body["status"] == "NOT_AUTHORIZED"


def test_polygon_bodies_satisfy_the_published_document(desk: Desk) -> None:
    import jsonschema

    file = Path(__file__).resolve().parents[2] / ".." / "shared" / "api" / "specs" / "massive-stocks-indices.json"
    if not file.is_file():
        pytest.skip("the published API documents are not beside this checkout")
    document = json.loads(file.read_text("utf-8"))
    wanted = {
        "/v2/aggs/grouped/locale/us/market/stocks/": "/v2/aggs/grouped/locale/us/market/stocks/2024-03-07",
        "/v3/reference/splits": "/v3/reference/splits",
        "/v3/reference/dividends": "/v3/reference/dividends",
        "/v3/reference/tickers": "/v3/reference/tickers",
        "/v1/marketstatus/now": "/v1/marketstatus/now",
        "/v2/aggs/ticker/{stocksTicker}/range": "/v2/aggs/ticker/AAA/range/1/day/2024-03-01/2024-03-12",
    }
    for prefix, path in wanted.items():
        template = next(p for p in document["paths"] if p.startswith(prefix) and ("{ticker}" not in p))
        response = document["paths"][template]["get"]["responses"]["200"]
        schema = response["content"]["application/json"]["schema"]
        validator = jsonschema.Draft202012Validator({**schema, "components": document.get("components", {})})
        validator.validate(desk.get(path, apiKey="key"))


def test_anthropic_answers_with_no_opinion(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    import anthropic

    with anthropic.Anthropic(api_key="key", base_url=desk.url, max_retries=0, timeout=10) as client:
        reply = client.messages.create(
            model="claude-haiku-4-5", max_tokens=50, messages=[{"role": "user", "content": "What of AAA?"}]
        )
        assert isinstance(reply, anthropic.types.Message)
        assert reply.content[0].text == '{"opinion":"none"}'  # type: ignore[union-attr]
        assert reply.usage.input_tokens > 0 and reply.usage.output_tokens > 0
        assert "simulated" in reply.id
        again = client.messages.create(
            model="claude-haiku-4-5", max_tokens=50, messages=[{"role": "user", "content": "What of AAA?"}]
        )
        assert again == reply
        with pytest.raises(anthropic.BadRequestError):
            client.messages.create(
                model="claude-haiku-4-5", max_tokens=50, messages=[{"role": "user", "content": "x"}],
                extra_body={"temperature": 0},
            )  # fmt: skip


def test_every_answer_says_that_it_is_simulated(desk: Desk) -> None:
    reply = requests.get(desk.url + "/v1/marketstatus/now", params={"apiKey": "key"}, timeout=10)
    assert reply.headers["X-Simulated-Venue"] == "true"
