"""The real alpaca-py against the venue, and the venue's bodies against Alpaca's published document."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from .conftest import DAYS, Desk, OpenDesk, at

SPECS = Path(__file__).resolve().parents[2] / ".." / "shared" / "api" / "specs"
FLAT = (20.0, 21.0, 19.0, 20.0)
ROWS = {"AAA": [FLAT] * 6, "BRK.B": [(40.0, 41.0, 39.0, 40.5)] * 6, "ZZZ": [None, None, None, None, None, FLAT]}

ORDER_KEYS = {
    "id", "client_order_id", "created_at", "updated_at", "submitted_at", "filled_at", "expired_at", "canceled_at",
    "failed_at", "replaced_at", "replaced_by", "replaces", "asset_id", "symbol", "asset_class", "notional", "qty",
    "filled_qty", "filled_avg_price", "order_class", "order_type", "type", "side", "position_intent", "time_in_force",
    "limit_price", "stop_price", "status", "extended_hours", "legs", "trail_percent", "trail_price", "hwm", "subtag",
    "source", "expires_at",
}  # fmt: skip
ACCOUNT_KEYS = {
    "id", "admin_configurations", "user_configurations", "account_number", "status", "crypto_status",
    "options_approved_level", "options_trading_level", "currency", "buying_power", "regt_buying_power",
    "effective_buying_power", "non_marginable_buying_power", "options_buying_power", "cash", "accrued_fees",
    "portfolio_value", "trading_blocked", "transfers_blocked", "account_blocked", "created_at",
    "trade_suspended_by_user", "multiplier", "shorting_enabled", "equity", "last_equity", "long_market_value",
    "short_market_value", "position_market_value", "initial_margin", "maintenance_margin", "last_maintenance_margin",
    "sma", "balance_asof", "crypto_tier", "intraday_adjustments", "pending_reg_taf_fees",
}  # fmt: skip


def trading(desk: Desk) -> Any:
    from alpaca.trading.client import TradingClient

    client = TradingClient("id", "secret", url_override=desk.url)
    client._retry = 0
    return client


def test_account_clock_calendar_and_assets_through_the_client(open_desk: OpenDesk) -> None:
    from alpaca.trading.requests import GetCalendarRequest

    desk = open_desk(ROWS, start=at(DAYS[4], "15:59"))
    client = trading(desk)
    assert client.get_account().cash == "100000"
    clock = client.get_clock()
    assert clock.is_open and clock.timestamp == at(DAYS[4], "15:59")
    assert (clock.next_close, clock.next_open) == (at(DAYS[4], "16:00"), at(DAYS[5], "09:30"))  # over a weekend, in DST
    days = client.get_calendar(GetCalendarRequest(start=date(2024, 7, 1), end=date(2024, 7, 7)))
    assert [(str(day.date), day.close.hour) for day in days][2:] == [("2024-07-03", 13), ("2024-07-05", 16)]
    assert {asset.symbol for asset in client.get_all_assets()} == {"AAA", "BRK.B"}
    asset = client.get_asset("BRK.B")
    assert client.get_asset(str(asset.id)).symbol == "BRK.B"
    assert client.get_account_configurations().no_shorting is True


def test_an_order_lives_through_the_client(open_desk: OpenDesk) -> None:
    from alpaca.trading.enums import OrderClass, OrderSide, OrderStatus, QueryOrderStatus, TimeInForce
    from alpaca.trading.requests import (
        GetOrderByIdRequest,
        GetOrdersRequest,
        LimitOrderRequest,
        StopLossRequest,
        TakeProfitRequest,
    )

    desk = open_desk(ROWS, start=at(DAYS[1], "09:30"))
    client = trading(desk)
    sent = client.submit_order(
        LimitOrderRequest(
            symbol="BRK.B", qty=2, side=OrderSide.BUY, time_in_force=TimeInForce.IOC, limit_price=40.05,
            client_order_id="kobe-1",
        )
    )  # fmt: skip
    assert sent.status is OrderStatus.PENDING_NEW
    done = client.get_order_by_client_id("kobe-1")
    assert (done.id, done.status, done.filled_qty) == (sent.id, OrderStatus.FILLED, "2")
    oco = client.submit_order(
        LimitOrderRequest(
            symbol="BRK.B", qty=2, side=OrderSide.SELL, time_in_force=TimeInForce.GTC, order_class=OrderClass.OCO,
            limit_price=45, take_profit=TakeProfitRequest(limit_price=45), stop_loss=StopLossRequest(stop_price=38),
        )
    )  # fmt: skip
    assert oco.legs[0].stop_price == "38"
    assert client.get_order_by_id(oco.id, GetOrderByIdRequest(nested=True)).legs[0].id == oco.legs[0].id
    assert client.get_order_by_id(oco.id).legs is None
    nested = client.get_orders(GetOrdersRequest(status=QueryOrderStatus.OPEN, nested=True))
    assert len(nested) == 1 and len(client.get_orders(GetOrdersRequest(status=QueryOrderStatus.OPEN))) == 2
    position = client.get_open_position("BRK.B")
    assert (position.qty, position.qty_available, position.current_price) == ("2", "0", "40")
    cancelled = client.cancel_orders()
    assert [str(item.id) for item in cancelled] == [str(oco.id)] and cancelled[0].status == 200
    assert client.cancel_orders() == []
    closed = client.close_all_positions(cancel_orders=True)
    assert closed[0].status == 200 and client.get_all_positions() == []
    fills = client.get("/account/activities/FILL", {"page_size": 1})
    rest = client.get("/account/activities/FILL", {"page_size": 1, "page_token": fills[0]["id"]})
    assert [fill["side"] for fill in fills + rest] == ["sell", "buy"]
    assert client.get("/account/activities", {"activity_types": "FILL", "page_token": rest[0]["id"]}) == []


def test_a_refusal_is_an_api_error_with_its_code(open_desk: OpenDesk) -> None:
    from alpaca.common.exceptions import APIError
    from alpaca.trading.enums import OrderSide, TimeInForce
    from alpaca.trading.requests import LimitOrderRequest

    desk = open_desk(ROWS)
    request = LimitOrderRequest(
        symbol="AAA", qty=1, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, limit_price=15, client_order_id="twice"
    )
    trading(desk).submit_order(request)
    with pytest.raises(APIError) as caught:
        trading(desk).submit_order(request)
    assert (caught.value.status_code, caught.value.code) == (422, 40010001)


def test_market_data_through_the_client(open_desk: OpenDesk) -> None:
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.requests import StockBarsRequest, StockLatestQuoteRequest, StockSnapshotRequest
    from alpaca.data.timeframe import TimeFrame

    desk = open_desk(ROWS, start=at(DAYS[5], "09:35"))
    client = StockHistoricalDataClient("id", "secret", url_override=desk.url)
    bars: Any = client.get_stock_bars(
        StockBarsRequest(
            symbol_or_symbols=["AAA", "BRK.B", "NONE"], timeframe=TimeFrame.Day, start=datetime(2024, 3, 4, tzinfo=UTC),
            end=datetime(2024, 3, 12, tzinfo=UTC), limit=7,
        )
    )  # fmt: skip
    assert set(bars.data) == {"AAA", "BRK.B"}
    stamps = [bar.timestamp for bar in bars.data["AAA"]]
    assert len(stamps) == 5  # today's session is not over
    assert stamps[-1] == datetime(2024, 3, 8, 5, tzinfo=UTC)  # midnight New York in winter
    quotes: Any = client.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols=["AAA", "ZZZ", "NONE"]))
    assert set(quotes) == {"AAA", "ZZZ"} and quotes["AAA"].bid_price < quotes["AAA"].ask_price
    snapshots: Any = client.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols=["AAA", "NONE"]))
    assert snapshots["AAA"].previous_daily_bar.close == 20.0


def test_bars_page_across_symbols_without_losing_or_repeating_a_row(open_desk: OpenDesk) -> None:
    desk = open_desk(ROWS, start=at(DAYS[5], "17:00"))
    query = {"symbols": "BRK.B,AAA,ZZZ", "timeframe": "1Day", "start": "2024-03-04", "end": "2024-03-11", "limit": "4"}
    seen: list[tuple[str, str]] = []
    token, pages = None, 0
    while True:
        body = desk.get("/v2/stocks/bars", **query, **({"page_token": token} if token else {}))
        rows = [(symbol, bar["t"]) for symbol, bars in body["bars"].items() for bar in bars]
        assert len(rows) <= 4
        seen, token, pages = seen + rows, body["next_page_token"], pages + 1
        if token is None:
            break
    assert pages == 4 and len(seen) == len(set(seen)) == 13
    assert seen[5] == ("AAA", "2024-03-11T04:00:00Z")  # summer time now


def _schema(file: str, path: str, method: str, status: str) -> Any:
    import jsonschema
    import yaml

    if not SPECS.is_dir():
        pytest.skip("the published API documents are not beside this checkout")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = yaml.load((SPECS / file).read_text("utf-8"), loader)
    response = document["paths"][path][method]["responses"][status]
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
    content = next(iter(response["content"].values()))["schema"]
    return jsonschema.Draft202012Validator(_nullable({**content, "components": document["components"]}))


def _nullable(schema: Any) -> Any:
    """OpenAPI 3.0 writes `nullable: true` where JSON Schema lists the type null."""
    if isinstance(schema, list):
        return [_nullable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _nullable(value) for key, value in schema.items()}
    if made.get("nullable") is True and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


def test_bodies_satisfy_the_published_document(open_desk: OpenDesk) -> None:
    desk = open_desk(ROWS, start=at(DAYS[1], "09:30"))
    desk.buy("AAA", 2, 25)
    desk.oco("AAA", 2, 25, 15)
    desk.order(symbol="AAA", qty=1, side="buy", type="limit", time_in_force="day", limit_price=10)
    order = desk.get("/v2/orders", limit="1")
    assert set(order[0]) == ORDER_KEYS
    assert set(desk.get("/v2/account")) == ACCOUNT_KEYS
    checks = [
        ("/v2/account", {}), ("/v2/clock", {}), ("/v2/assets", {}), ("/v2/orders", {"status": "all"}),
        ("/v2/positions", {}), ("/v2/account/activities", {}),
    ]  # fmt: skip
    for path, query in checks:
        _schema("alpaca-trading.yaml", path, "get", "200").validate(desk.get(path, **query))
    snapshots = "/v2/stocks/quotes/latest"
    _schema("alpaca-data.yaml", snapshots, "get", "200").validate(desk.get(snapshots, symbols="AAA"))
    bars = desk.get("/v2/stocks/bars", symbols="AAA", timeframe="1Day", start="2024-03-01", end="2024-03-05")
    _schema("alpaca-data.yaml", "/v2/stocks/bars", "get", "200").validate(bars)
