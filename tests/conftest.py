"""Shape annotations are checked in tests, and only there."""

from jaxtyping import install_import_hook

install_import_hook("weightflow", "beartype.beartype")
