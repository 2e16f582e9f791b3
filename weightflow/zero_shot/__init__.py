"""Closed-form rows of the last layer from class vectors (anchors).

regression      class vector -> mean feature of the class -> row (kernel ridge, then linear discriminant)
fit             its numbers from a zoo, its settings by holding out known classes
"""

from weightflow.zero_shot.config import AnchorConfig

__all__ = ["AnchorConfig"]
