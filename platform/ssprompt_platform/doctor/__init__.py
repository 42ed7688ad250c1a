"""Says what is wrong with everything that a study stands on, and how it is mended."""

from ssprompt_platform.doctor.storage_probe import check_storage

__all__ = ["check_storage"]
