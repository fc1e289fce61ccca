"""`detector ui`: a page in the browser."""

import os

from detector.errors import missing_package

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # or it would send telemetry and ask for its newest version
try:
    import gradio  # noqa: F401
except ImportError as error:
    raise missing_package("detector ui", error, "ui") from error
