"""The page for people: what the OpenAPI document says, without a script or a file from elsewhere."""

from collections.abc import Mapping
from typing import Any

from detector.utils.page import escape, page, paragraph, table


def overview(document: Mapping[str, Any], weights: str, address: str) -> str:
    """The endpoints in an OpenAPI document as HTML."""
    rows = [
        (method.upper(), path, operation["summary"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    parameters = [(each["name"], each["description"]) for each in document["paths"]["/v1/detect"]["post"]["parameters"]]
    example = f"curl --data-binary @photo.jpg {address}v1/detect"
    return page(
        f"detector serve: {weights}",
        [
            ("Endpoints", table(("method", "path", "does"), rows)),
            ("Parameters of /v1/detect", table(("name", "meaning"), parameters)),
            ("Example", f"<pre>{escape(example)}</pre>"),
            ("OpenAPI", paragraph("The whole interface:") + '<p><a href="openapi.json">openapi.json</a></p>'),
        ],
    )
