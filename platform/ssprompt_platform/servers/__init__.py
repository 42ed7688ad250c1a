"""Real servers on this machine for one user: an S3 server and MLflow, both on loopback alone."""
