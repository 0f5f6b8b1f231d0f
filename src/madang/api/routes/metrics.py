"""/metrics: the daemon and the fleet, as Prometheus reads them."""

import gzip

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from madang.api.desk import Desk
from madang.api.gate import WHO
from madang.api.roles import check_caller
from madang.api.scraping import PATH
from madang.telemetry.out.exposition import CLASSIC, OPEN_METRICS, wants_open_metrics
from madang.wire.access import Role

GZIP_LEVEL = 1  # the text repeats itself: level 1 makes a twentieth of it, 6 little less for thrice


def metrics_route(desk: Desk) -> Route:
    """The route. Who may come in: api/scraping.py."""

    def written(open_metrics: bool, is_packed: bool) -> bytes:
        text = desk.yard.scrape(open_metrics=open_metrics)
        return gzip.compress(text, GZIP_LEVEL, mtime=0) if is_packed else text

    async def metrics(request: Request) -> Response:
        if WHO in request.scope:  # else the gate has let in a scraper without a name
            check_caller(request.scope, Role.VIEWER)
        open_metrics = wants_open_metrics(request.headers.get("accept", ""))
        is_packed = "gzip" in request.headers.get("accept-encoding", "").lower()
        headers = {"vary": "accept, accept-encoding"}
        if is_packed:
            headers["content-encoding"] = "gzip"
        body = await desk.series.read(written, open_metrics, is_packed)
        return Response(body, 200, headers, OPEN_METRICS if open_metrics else CLASSIC)

    return Route(PATH, metrics, methods=["GET"])
