"""The study platform: Ray, Optuna, MLflow, configuration, storage and reports around the core."""

import os

# read by MLflow and Ray as they are imported or started: a study reports to nobody unasked
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
