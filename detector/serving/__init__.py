"""`detector serve`: detection over HTTP."""

from detector.errors import missing_package

try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401 - which Starlette reads forms with
    import uvicorn  # noqa: F401
except ImportError as error:
    raise missing_package("detector serve", error, "serve") from error
