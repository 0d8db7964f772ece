"""Access over HTTP: the routes that ask for keys, and those of administrators."""

from __future__ import annotations

import pytest

ADMINS = "/v2/repository/models/nobody/load"


def test_only_administrators_reach_their_routes(serve, three):
    with serve(api_keys=three) as client:
        assert client.post(ADMINS).status_code == 401
        refused = client.post(ADMINS, headers={"X-API-Key": "one"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert client.post(ADMINS, headers={"X-API-Key": "boss"}).status_code == 404


@pytest.mark.parametrize("settings", [{}, {"api_key": "one"}])
def test_without_an_administrator_the_routes_are_off_and_say_how_to_switch_them_on(serve, settings):
    with serve(**settings) as client:
        refused = client.post(ADMINS, headers={"X-API-Key": "one"})
        assert refused.status_code == 403
        assert "admin = true" in refused.json()["detail"]
        assert "LCCL_API_KEYS" in refused.json()["detail"]


def test_every_route_but_the_operators_asks_for_a_key(serve, three):
    with serve(api_keys=three) as client:
        routes = client.get("/openapi.json").json()["paths"]
        asked = []
        for path, methods in routes.items():
            for method in methods:
                answer = client.request(method, path.replace("{", "").replace("}", ""))
                if answer.status_code == 401:
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
                    asked.append(path)
        open_to_all = set(routes) - set(asked)
        assert open_to_all == {path for path in routes if path == "/metrics" or "/health/" in path}
        assert "/v1/classify" in asked
