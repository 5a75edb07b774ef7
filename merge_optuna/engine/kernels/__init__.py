"""Fused merge kernels: one pass over the sources, block by block in the processor's cache.

They give the same bits as the torch kernels of ``merge_optuna.methods`` on float32 values: the
same operations in the same order, each rounded once, never contracted. Arrays are flat; bfloat16
is passed as uint16 and float16 as int16. All run without the interpreter lock, so that tensors
merge on several threads.

Written for LLVM's vectoriser: selects instead of branches, unsigned indices (numba wraps signed
ones), stages that each touch a few arrays.

numba keeps compiled functions on disk and knows them by the text of their own file, not of what
they call. So every file ends with the digests of those that it imports from here; a test says
what to write there after a change.
"""
