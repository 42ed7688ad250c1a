"""Every metric of the platform: its name, kind, labels and meaning.

Ray exports them with the prefix ``ray_`` and adds labels of its own (``SessionName``,
``NodeAddress``, ``WorkerId``); a counter gets the suffix ``_total``. Labels are few: a study's id
is one, a trial's or an image's never is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

PREFIX = "ssprompt_"
_GROUP = ("study", "method", "shots")


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: Without a prefix.
        kind: Of Prometheus.
        meaning: Its help text.
        labels: Names of its labels; all of them are always given.
        bounds: Upper bounds of a histogram's buckets.
    """

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """Its name at Ray's Prometheus endpoint; a histogram's series have suffixes behind it."""
        return f"ray_{PREFIX}{self.name}" + ("_total" if self.kind == "counter" else "")


TRIALS = Metric(
    "trials",
    "gauge",
    "Search trials by state (running, complete, pruned, failed, duplicate), over all parts of the "
    "study",
    (*_GROUP, "state"),
)
TRIALS_LEFT = Metric("trials_left", "gauge", "Search trials that have not begun", ("study",))
TRIALS_ENDED = Metric(
    "trials_ended", "counter", "Search trials that ended in this part of the study",
    (*_GROUP, "state"),
)  # fmt: skip
TRIAL_SECONDS = Metric(
    "trial_seconds",
    "histogram",
    "Seconds that an ended search trial spent in workers",
    ("study", "method"),
    (1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400),
)
EPOCHS = Metric(
    "epochs", "counter", "Epochs that search trials reported to this part of the study",
    ("study", "method"),
)  # fmt: skip
BEST = Metric("best_miou", "gauge", "Best mean mIoU of a search trial on selection images", _GROUP)
FITS = Metric(
    "fits", "gauge", "Final fits by state (done, failed, left), over all parts of the study",
    (*_GROUP, "state"),
)  # fmt: skip
ENCODED = Metric("encoded_images", "counter", "Images that went through the frozen encoder")
PHASE_SECONDS = Metric(
    "phase_seconds", "gauge", "Seconds that a phase of this part of the study took",
    ("study", "phase"),
)  # fmt: skip
RUNNING = Metric("study_running", "gauge", "1 while the driver of a study is alive", ("study",))
BACKLOG = Metric(
    "tracking_backlog", "gauge", "Events in the journal that MLflow was not told yet", ("study",)
)
S3_REQUESTS = Metric(
    "s3_requests", "counter", "Requests to S3, every attempt of them", ("operation",)
)
S3_RETRIES = Metric("s3_retries", "counter", "Attempts that repeated a request", ("operation",))
S3_ERRORS = Metric(
    "s3_errors",
    "counter",
    "Attempts that went wrong, by kind (throttled, server, refused, client, timeout, connection)",
    ("operation", "kind"),
)
S3_FAILURES = Metric(
    "s3_failures", "counter", "Requests that were given up, by kind", ("operation", "kind")
)

ALL: tuple[Metric, ...] = (
    TRIALS,
    TRIALS_LEFT,
    TRIALS_ENDED,
    TRIAL_SECONDS,
    EPOCHS,
    BEST,
    FITS,
    ENCODED,
    PHASE_SECONDS,
    RUNNING,
    BACKLOG,
    S3_REQUESTS,
    S3_RETRIES,
    S3_ERRORS,
    S3_FAILURES,
)
