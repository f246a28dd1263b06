from numpy import uint64
from numpy.typing import NDArray

from extmeta.encoding import Encoding

class PythonCalls(Encoding):
    def checked(self, vpns: NDArray[uint64]) -> NDArray[uint64]: ...
    def give(
        self, method: str, vpns: NDArray[uint64], words: NDArray[uint64]
    ) -> None: ...
