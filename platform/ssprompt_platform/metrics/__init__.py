"""What a study exports through Ray's metrics, for Prometheus; :mod:`.names` lists all of it.

Nothing is imported here: the storage counts its requests by :mod:`.s3`, and stays free of Ray.
"""
