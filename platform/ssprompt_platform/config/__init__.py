"""What a study can be told: typed options, study files, overrides and their help."""

from ssprompt_platform.config.load import load_config
from ssprompt_platform.config.schema import Config

__all__ = ["Config", "load_config"]
