from collections.abc import Callable
from typing import Any

def once(run: Callable[[Any], Any], state: Any) -> Any: ...
