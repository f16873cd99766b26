"""The headers that every answer bears."""

from flask import Flask, Response

from portal.settings import Settings

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    # The address of a page may hold a key for the moment of its redirection.
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


def install_headers(app: Flask, settings: Settings) -> None:
    """Set them on every answer; a view's own (of a job's files, for instance) stay."""
    headers = dict(SECURITY_HEADERS)
    if settings.portal.base_url.startswith("https:"):
        headers["Strict-Transport-Security"] = "max-age=31536000"

    @app.after_request
    def set_headers(response: Response) -> Response:
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        if response.mimetype in ("text/html", "application/json", "application/problem+json"):
            # Pages hold one-time tokens and what only some may see.
            response.headers.setdefault("Cache-Control", "no-store")
        return response
