"""Which SIMD instructions scans use; `simd.pxd` has what they do."""


def instructions():
    """Return the instructions in use: "avx512", "avx2" or "none"."""
    return "avx512" if simd == AVX512 else "avx2" if simd == AVX2 else "none"
