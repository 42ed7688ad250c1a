"""The rows of the comparison."""

from ssprompt_core.methods.model import FewShotModel, MethodSpec
from ssprompt_core.methods.registry import METHODS, build_model
from ssprompt_core.methods.settings import MethodSettings

__all__ = ["METHODS", "FewShotModel", "MethodSettings", "MethodSpec", "build_model"]
