"""Errors a user can mend. Everything this package raises on bad input derives from `VlaError`.

The message always says what is wrong and how to mend it; command lines print it on one line and
exit with 2, nodes log it and refuse the transition. A bug in our own code stays a plain Python
exception with its traceback.
"""


class VlaError(Exception):
    """Base of every user-fixable error of this package."""


class EmbodimentError(VlaError):
    """The description of the robot is missing, incomplete or contradicts itself."""


class WireError(VlaError):
    """Bytes of a message cannot be what their type says (truncated, lying sizes, bad encoding)."""


class ControlError(VlaError):
    """A command cannot be expressed, decoded or executed within the embodiment's terms."""


class BagError(VlaError):
    """A recording cannot be written, read or trusted."""


class DatasetError(VlaError):
    """Episodes cannot be turned into training samples."""


class CheckpointError(VlaError):
    """A checkpoint folder is missing, damaged, or does not fit the model it claims to hold."""


class ConfigError(VlaError):
    """A setting has an unknown name, a wrong type, or a value out of range."""


class AlignmentError(VlaError):
    """Features or labels that no alignment loss can be computed from, as NaN or other lengths."""


class SimulationError(VlaError):
    """A scene, task or split cannot be simulated as asked."""


class RenderError(SimulationError):
    """No way to draw off-screen works on this machine."""
