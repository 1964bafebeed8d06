"""The type of a loaded model, without importing it.

TransformerLens takes seconds to import, so no module of this package imports it at its head. Annotate with ``Bridge``:

    from __future__ import annotations
    from interp.types import Bridge

    def layers(model: Bridge) -> int: ...
    def other(model: Bridge | None = None, models: Sequence[Bridge] = ()) -> dict[str, Bridge]: ...

A type checker sees ``TransformerBridge``. At run time ``Bridge`` is a stand-in whose ``isinstance`` looks at the
already imported TransformerLens: whoever holds a bridge has imported it. (A string or a ``ForwardRef`` in its place is
silently not checked by beartype under jaxtyping's import hook, whatever is passed.)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeAlias

__all__ = ["Bridge"]

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    Bridge: TypeAlias = TransformerBridge
else:

    class _Late(type):
        def __instancecheck__(cls, instance: object) -> bool:
            bridge = getattr(sys.modules.get("transformer_lens.model_bridge"), "TransformerBridge", None)
            return bridge is not None and isinstance(instance, bridge)

    class Bridge(metaclass=_Late):
        """A model loaded by :func:`interp.loading.models.load_model`; only for annotations and ``isinstance``.

        >>> isinstance("smollm2-135m-instruct", Bridge)
        False
        """
