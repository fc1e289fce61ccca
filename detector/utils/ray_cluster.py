"""Connection to a cluster of Ray, an optional package."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from detector.errors import DetectorError


@contextmanager
def ray_cluster() -> Iterator[None]:
    """Within the block, be connected to the cluster that runs on this machine or that RAY_ADDRESS names, else to one started here.

    Raises DetectorError if that cluster doesn't answer.
    """
    import ray
    from ray.exceptions import RayError

    if "RAY_ADDRESS" in os.environ:  # tries of 40 s each: Ray's own 20 take a quarter of an hour
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except (ConnectionError, RayError) as error:
        where = os.environ.get("RAY_ADDRESS", "this machine")
        raise DetectorError(
            f"the Ray cluster at {where} can't be reached ({error}); if it wants a token, set RAY_AUTH_MODE=token and give this"
            " machine the cluster's ~/.ray/auth_token"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
