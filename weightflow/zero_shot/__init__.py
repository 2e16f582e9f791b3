"""Where words put a class before anything is generated: rows of the last layer in closed form.

regression      class vector -> mean feature of the class -> row (kernel ridge, then linear discriminant)
fit             its numbers from a zoo, its settings by holding out known classes
"""

from weightflow.zero_shot.config import AnchorConfig

__all__ = ["AnchorConfig"]
