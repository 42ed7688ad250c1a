"""The study platform around ssprompt_core: Ray, Optuna, MLflow and storage."""
