"""The imaginary company whose traffic is generated: the same for every seed, so dashboards stay comparable."""

from dataclasses import dataclass
from random import Random
from zlib import crc32

SERVICES: dict[str, str] = {
    "checkout": "cart/pay orders/confirm addresses/verify vouchers/redeem quotes",
    "gateway": "sessions routes assets pages/render tokens/exchange",
    "search": "products/find suggestions/rank filters facets trends",
    "catalog": "products categories brands bundles/price variants",
    "auth": "login/verify tokens/refresh sessions keys passwords/reset",
    "pricing": "prices/quote discounts/apply currencies rules taxes",
    "inventory": "stock/reserve warehouses transfers/approve counts lots",
    "recommendations": "similar trending bundles carts/complete profiles",
    "profiles": "customers/merge preferences avatars consents/grant devices",
    "payments": "charges/capture refunds/settle methods disputes/close payouts",
    "orders": "orders/cancel items shipments/split returns/accept invoices",
    "notifications": "emails/send pushes/send messages templates subscriptions",
    "shipping": "labels/print rates/quote carriers parcels/track zones",
    "reviews": "reviews/publish ratings questions answers/accept reports",
    "media": "images/resize videos/encode uploads/finish albums thumbnails",
    "wishlist": "lists/share items alerts gifts/reserve notes",
    "loyalty": "points/redeem tiers rewards/claim referrals badges",
    "billing": "invoices/issue plans subscriptions/renew credits statements",
    "ledger": "accounts entries/post balances periods/close journals",
    "fraud": "checks/score cases/resolve rules devices signals",
    "geo": "places/locate regions routes/plan addresses/normalise stores",
    "content": "articles/publish pages banners menus translations/review",
    "experiments": "flags/evaluate variants cohorts/assign metrics holdouts",
    "messaging": "threads/close messages/read participants attachments drafts",
    "support": "tickets/escalate agents macros satisfaction queues/assign",
    "analytics": "events/ingest funnels/run cohorts dashboards exports/start",
    "reports": "reports/run schedules extracts/build snapshots templates",
    "partners": "partners/approve contracts feeds/sync commissions catalogs",
    "suppliers": "suppliers/rate offers/accept purchases deliveries/receive terms",
    "returns": "returns/approve reasons labels inspections/record refunds",
    "subscriptions": "plans/change periods pauses/end trials/convert seats",
    "identity": "documents/verify checks persons consents/withdraw matches",
    "permissions": "roles/grant groups policies/evaluate members scopes",
    "webhooks": "endpoints/test deliveries/retry secrets/rotate topics logs",
    "scheduler": "jobs/run triggers calendars/apply leases queues/drain",
    "imports": "files/parse mappings rows/validate batches/commit errors",
    "taxes": "rates/quote jurisdictions exemptions/verify filings returns",
    "chat": "rooms/join messages/pin bots reactions transcripts",
    "backoffice": "users/suspend audits settings/apply approvals/sign notes",
    "warehouse": "picks/assign bins waves/release packers docks/book",
}
"""Service -> its five resources, `resource/verb` where something can be done with one; the busiest service first."""

TIERS = {"free": 70, "pro": 25, "enterprise": 5}
"""Tier -> percent of the requests."""

REGIONS = {"eu-west-1": 40, "us-east-1": 35, "ap-southeast-1": 15, "sa-east-1": 10}
VERSIONS = ("4.18.2", "4.19.0", "4.19.1", "4.20.0-rc.1")
HOSTS = 48
CUSTOMERS = 5_000

SLOW_ENDPOINT = ("reports", "/reports/:id/run")
TROUBLED_ENDPOINT = ("checkout", "/cart/:id/pay")
"""Slows down for a while again and again, so that a dashboard has something to show."""

_OPERATIONS = (
    ("GET", "/{resource}/:id", 1.0),
    ("POST", "/{resource}/:id/{verb}", 3.0),
    ("GET", "/{resource}", 1.8),
    ("GET", "/{resource}/:id/history", 2.2),
    ("PATCH", "/{resource}/:id/settings", 2.5),
)
"""Method, path and how many times slower than a plain look-up it is; the most popular first."""

_SLOW_MEDIAN_MS = 1_400.0
_ZIPF_EXPONENT = 0.9


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint and how its requests behave; `weight` is its share of all requests, not normalised."""

    service: str
    path: str
    method: str
    median_ms: float
    sigma: float
    error_factor: float
    weight: float


def endpoints() -> tuple[Endpoint, ...]:
    """All endpoints of all services: 40 x 25."""
    return tuple(
        _endpoint(service, operation, resource, weight=zipf_weight(s) * zipf_weight(r) * zipf_weight(o))
        for s, (service, resources) in enumerate(SERVICES.items())
        for r, resource in enumerate(resources.split())
        for o, operation in enumerate(_OPERATIONS)
    )


def zipf_weight(rank: int) -> float:
    """Popularity of what comes at `rank`, from 0 on."""
    return float((1 + rank) ** -_ZIPF_EXPONENT)


def _endpoint(service: str, operation: tuple[str, str, float], resource: str, weight: float) -> Endpoint:
    method, pattern, slowness = operation
    name, _, verb = resource.partition("/")
    path = pattern.format(resource=name, verb=verb or "touch")
    rng = Random(crc32(f"{service} {path}".encode()))  # traffic, not secrets
    median_ms = rng.uniform(3, 14) * slowness
    return Endpoint(
        service,
        path,
        method,
        median_ms=_SLOW_MEDIAN_MS if (service, path) == SLOW_ENDPOINT else median_ms,
        sigma=rng.uniform(0.35, 0.75),
        error_factor=rng.choice((0.2, 0.5, 1.0, 1.0, 2.0, 5.0)),
        weight=weight,
    )
